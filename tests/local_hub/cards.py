"""The YAML at the head of a README.md: what it says, what the Hub rejects in it, which tags follow from it."""

import re
from typing import Any

import yaml

FRONT_MATTER = re.compile(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\n|$))")

# As the Hub listed them in an error message in May 2026.
LICENSE_NAMES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m afl-3.0
artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0
epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research
intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql
ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1
llama3.2 llama3.3 llama4 grok2-community gemma unknown other
"""
LICENSES = LICENSE_NAMES.split()

TEXT_FIELDS = ("library_name", "license_link", "license_name", "pipeline_tag", "pretty_name")


class StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, as the Hub does; YAML for Python takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node without repeated keys."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, "duplicated mapping key", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def metadata(content: str) -> Any:
    """What the YAML says; None where there is none. Raises yaml.YAMLError."""
    match = FRONT_MATTER.match(content)
    return None if match is None else yaml.load(match[2], Loader=StrictLoader)


def readable_metadata(content: bytes) -> dict[str, Any]:
    """The same, and nothing where it cannot be read."""
    try:
        found = metadata(content.decode())
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def review(content: str, kind: str) -> tuple[list[str], list[str]]:
    """The errors and the warnings that the Hub has about a card of a kind of repository."""
    try:
        found = metadata(content)
    except yaml.YAMLError as error:
        return [f"YAML metadata cannot be read: {' '.join(str(error).split())}"], []
    if not found:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(found, dict):
        return ["metadata must be an object"], []
    reviewer = Reviewer()
    reviewer.review_fields(found)
    if kind == "dataset" and "configs" in found:
        reviewer.review_configs(found["configs"])
    if kind == "model" and "model-index" in found:
        reviewer.review_index(found["model-index"])
    return reviewer.errors, []


class Reviewer:
    """Collects what is wrong with metadata, in the words the Hub uses."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def review_fields(self, found: dict[str, Any]) -> None:
        """The fields that cards of all kinds have."""
        if "license" in found:
            chosen = found["license"]
            if not is_texts(chosen) or not set(as_list(chosen)) <= set(LICENSES):
                self.errors.append(f'"license" must be one of [{", ".join(LICENSES)}, array]')
        for place, tag in self.items(found.get("tags", []), "tags"):
            if not isinstance(tag, str):
                self.errors.append(f'"{place}" must be a string')
        if not is_texts(found.get("language", [])):
            self.errors.append('"language" must be a string or an array of strings')
        for name in TEXT_FIELDS:
            if not isinstance(found.get(name, ""), str):
                self.errors.append(f'"{name}" must be a string')

    def review_configs(self, configs: Any) -> None:
        """The configurations of a dataset: each has a name, and says where its files are."""
        for place, config in self.objects(configs, "configs"):
            self.require_text(config, "config_name", place)
            if "data_files" not in config and "data_dir" not in config:
                self.errors.append(f'"{place}.data_files" is required')
            files = config.get("data_files", [])
            if is_texts(files):
                continue
            for file_place, entry in self.objects(files, f"{place}.data_files"):
                self.require_text(entry, "split", file_place)
                if not is_texts(entry.get("path")):
                    self.errors.append(f'"{file_place}.path" must be a string or an array of strings')

    def review_index(self, index: Any) -> None:
        """The evaluation results of a model: models, their results, and the metrics of each."""
        for place, model in self.objects(index, "model-index"):
            self.require_text(model, "name", place)
            for result_place, result in self.required_objects(model, "results", place):
                for name in ("task", "dataset"):
                    part = result.get(name)
                    if not isinstance(part, dict):
                        self.errors.append(f'"{result_place}.{name}" is required')
                        continue
                    self.require_text(part, "type", f"{result_place}.{name}")
                    if name == "dataset":
                        self.require_text(part, "name", f"{result_place}.{name}")
                for metric_place, metric in self.required_objects(result, "metrics", result_place):
                    self.require_text(metric, "type", metric_place)
                    if "value" not in metric:
                        self.errors.append(f'"{metric_place}.value" is required')

    def items(self, value: Any, place: str) -> list[tuple[str, Any]]:
        """The items of an array with their places."""
        if not isinstance(value, list):
            self.errors.append(f'"{place}" must be an array')
            return []
        return [(f"{place}[{index}]", item) for index, item in enumerate(value)]

    def objects(self, value: Any, place: str) -> list[tuple[str, dict[str, Any]]]:
        """The items of an array of objects with their places."""
        items = self.items(value, place)
        self.errors += [f'"{place}" must be of type object' for place, item in items if not isinstance(item, dict)]
        return [(place, item) for place, item in items if isinstance(item, dict)]

    def required_objects(self, parent: dict[str, Any], name: str, place: str) -> list[tuple[str, dict[str, Any]]]:
        """The same of a field that must be there."""
        if name not in parent:
            self.errors.append(f'"{place}.{name}" is required')
            return []
        return self.objects(parent[name], f"{place}.{name}")

    def require_text(self, parent: dict[str, Any], name: str, place: str) -> None:
        """A field that must be there and be a string."""
        if name not in parent:
            self.errors.append(f'"{place}.{name}" is required')
        elif not isinstance(parent[name], str):
            self.errors.append(f'"{place}.{name}" must be a string')


def is_texts(value: Any) -> bool:
    """Whether something is a string or a list of strings."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def as_list(value: Any) -> list[Any]:
    """A list as it is, nothing as an empty list, anything else as a list of itself."""
    return value if isinstance(value, list) else [] if value is None else [value]


def hub_tags(found: dict[str, Any], kind: str) -> list[str]:
    """The tags that the Hub lists a repository under: those of the card and those made of its other fields."""
    tags: list[str] = []
    if kind == "model":
        tags += [*as_list(found.get("library_name")), *as_list(found.get("pipeline_tag"))]
        tags += [f"dataset:{name}" for name in as_list(found.get("datasets"))]
        tags += ["model-index"] if found.get("model-index") else []
    else:
        for name in ("task_categories", "size_categories", "language"):
            tags += [f"{name}:{value}" for value in as_list(found.get(name))]
    tags += as_list(found.get("tags")) + [f"license:{name}" for name in as_list(found.get("license"))]
    return [*dict.fromkeys(str(tag) for tag in tags), "region:us"]
