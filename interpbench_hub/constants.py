"""File names, repository names and format versions: one place for every fixed string."""

NAMESPACE = "interpbench"
"""The Hub namespace of the published collection; also the prefix of bundled ids."""

SCHEMA_VERSION = 1
"""Version of the JSON formats below; raised when a reader of the old format could not read the new one."""

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CIRCUIT_FILE = "circuit.json"
CERTIFICATE_FILE = "certificate.json"
MODEL_FILES = (CONFIG_FILE, WEIGHTS_FILE, CIRCUIT_FILE)
"""What a checkpoint cannot do without; the certificate comes when it has been measured."""
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_FILES = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)
"""What a checkpoint has besides if its model is one of a language; the names are those of the tokenizers library."""
CARD_FILE = "README.md"
MANIFEST_FILE = "manifest.json"

TRAINING_STATE_FILE = "training_state.safetensors"
ENDED_STATE_FILE = "ended_state.safetensors"
"""The state of a run that ended short of its goal, from which it goes on if it is given more steps."""
TRAINING_LOG_FILE = "training_log.jsonl"
ATTEMPTS_FILE = "attempts.json"
"""The ledger of a case's attempts, next to their folders."""

BOS = "<bos>"
PAD = "<pad>"
UNDEFINED = "<undefined>"
"""Name of the output class that stands for an undefined output (None in a program's output)."""

DISTRIBUTION = "interpbench-hub"
"""Name under which the package is installed."""

LIBRARY_NAME = DISTRIBUTION
"""What published repositories call the library that loads them, which is also their tag on the Hub."""
