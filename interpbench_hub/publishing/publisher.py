"""Bringing the Hub up to date: one commit and one tag a repository, then the Collection.

A run that is interrupted, killed or refused in between does no harm: the same call goes on from what the Hub has.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from interpbench_hub.constants import NAMESPACE
from interpbench_hub.errors import InterpBenchError, PublishError, SettingError
from interpbench_hub.manifest import load_manifest, version_tag
from interpbench_hub.publishing.account import Account
from interpbench_hub.publishing.hub_collection import TITLE, CollectionChange
from interpbench_hub.publishing.plan import Change, Remote, State
from interpbench_hub.publishing.repositories import CIRCUITS, Repository, checked_namespace, chosen_models, makers

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Report = Callable[[dict[str, Any]], object]
Status = Literal["created", "updated", "tagged", "unchanged", "failed"]

_STATUS: dict[State, Status] = {
    "new": "created",
    "changed": "updated",
    "untagged": "tagged",
    "unchanged": "unchanged",
}


@dataclass(frozen=True)
class Outcome:
    """What became of one repository, or of the Collection; with a dry run what would."""

    what: str
    """`model interpbench/case_3`, `dataset interpbench/case_3`, `collection ...`."""
    status: Status
    n_files: int = 0
    """Files written and deleted; items of the Collection that are added or get another note."""
    n_bytes: int = 0
    """Bytes of the files written."""
    detail: str = ""
    """What is different, if there was something before, or why it failed."""


def publish(
    models: Sequence[str] | None = None,
    *,
    namespace: str = NAMESPACE,
    data: str | Path = "data",
    private: bool = False,
    dry_run: bool = False,
    move_tag: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    report: Report | None = None,
) -> list[Outcome]:
    """Publish bundled models, the datasets of their cases, circuits, results and a Collection of all on the Hub.

    Everything is gathered and checked before the first byte goes out. A repository gets one commit, if anything in it
    differs, and the tag `v<package version>`; what is up to date is left alone, so that a second call uploads nothing.
    With some models only, circuits, results and the Collection are brought up to date if the namespace has the circuits
    already.

    Args:
        models: Ids of bundled models (`case_3`); a case's id stands for its comparison twins, too. All if None.
        namespace: User or organisation on the Hub.
        data: Folder of the datasets; those that are missing are built there.
        private: Make new repositories and a new Collection private. What exists stays as visible as it is.
        dry_run: Only read from the Hub, and return what would be done.
        move_tag: Let the tag of this version follow what has changed since it was set.
        token: Access token that may write to the namespace; else `HF_TOKEN` or the one of `hf auth login`.
        endpoint: Address of the Hub; else `HF_ENDPOINT` or huggingface.co.
        report: Called with `{"event": "gather" | "compare" | "publish", "what": ..., "done": ..., "total": ...}`.

    Raises:
        PublishError: Something that was to be published is not whole, the Hub cannot be reached, the token may not
            write, or a tag stands in the way. Nothing has been sent then: what fails later is an outcome of status
            `failed`, and does not keep the rest from being published.
    """
    report = report or (lambda event: None)
    chosen = chosen_models(models)
    if not chosen:
        raise SettingError("there is no bundled model to publish; train one and bundle it first")
    _check_version()
    account = Account(checked_namespace(namespace), token, endpoint, is_reader=dry_run)
    with_tables = models is None or account.read("dataset", f"{namespace}/{CIRCUITS}") is not None
    repositories = _gathered(chosen, namespace, Path(data), with_tables, report)
    changes = []
    for done, repository in enumerate(repositories):
        report({"event": "compare", "what": str(repository), "done": done, "total": len(repositories)})
        changes.append(Change.of(repository, account.read(repository.kind, repository.id), version_tag()))
    if not move_tag:
        _check_tags(changes)
    if dry_run:
        outcomes = [_outcome(change) for change in changes]
    else:
        outcomes = list(_published(account, changes, private, move_tag, report))
    failed = {outcome.what for outcome in outcomes if outcome.status == "failed"}
    listed = [repository for repository in repositories if str(repository) not in failed]
    report({"event": "publish", "what": "collection", "done": len(changes), "total": len(changes)})
    return [
        *outcomes,
        *_update_collection(account, listed, private=private, dry_run=dry_run, may_create=models is None),
    ]


def _gathered(models: Sequence[str], namespace: str, data: Path, with_tables: bool, report: Report) -> list[Repository]:
    """Every repository, or one error about everything that cannot be published."""
    repositories, faults = [], []
    made = makers(models, namespace=namespace, data=data, with_tables=with_tables)
    for done, (what, make) in enumerate(made.items()):
        report({"event": "gather", "what": what, "done": done, "total": len(made)})
        try:
            repositories.append(make())
        except InterpBenchError as error:
            faults.append(f"{what}: {error}")
    if faults:
        raise PublishError("\n".join(["nothing was published:", *faults]))
    return repositories


def _check_version() -> None:
    """Downloads of a version are checked against the manifest that names it, so none goes out under another one."""
    from interpbench_hub import __version__

    named = load_manifest()["package_version"]
    if named != __version__:
        raise PublishError(
            f"nothing was published: the manifest of the bundled models is of version {named}, the package of "
            f"{__version__}; write it anew as docs/publishing.md says under *A new version*"
        )


def _check_tags(changes: Sequence[Change]) -> None:
    moved = [str(change.repository) for change in changes if change.moves_tag]
    if moved:
        listing = ", ".join(moved[:5]) + (f" and {len(moved) - 5} more" if len(moved) > 5 else "")
        raise PublishError(
            f"nothing was published: the Hub has tag {version_tag()} already, with other content, of {listing}. "
            "Whoever pinned it relies on that content: raise the version of the package, or move the tag (--move-tag, "
            "move_tag=True)"
        )


def _published(
    account: Account, changes: Sequence[Change], private: bool, move_tag: bool, report: Report
) -> Iterator[Outcome]:
    lost, in_trouble = None, 0
    for done, change in enumerate(changes):
        report({"event": "publish", "what": str(change.repository), "done": done, "total": len(changes)})
        try:
            # Without a connection, or with a Hub that wants no more or fails one repository after the other, the rest
            # would only be waited for in vain.
            if lost is not None:
                raise PublishError(f"not tried: {lost}")
            yield _bring_up_to_date(account, change, private, move_tag)
            in_trouble = 0
        except PublishError as error:
            in_trouble = in_trouble + 1 if error.wait is not None else 0
            if error.is_lost or error.is_busy or in_trouble == 2:
                lost = lost or error
            yield Outcome(str(change.repository), "failed", detail=str(error))


def _bring_up_to_date(account: Account, planned: Change, private: bool, move_tag: bool) -> Outcome:
    if planned.state != "unchanged":
        account.patiently(lambda: _write(account.api, planned.repository, planned.tag, private, move_tag))
    return _outcome(planned)


def _write(api: "HfApi", repository: Repository, tag: str, private: bool, move_tag: bool) -> None:
    """One commit and one tag, from what the Hub has now: others may have been at work since the plan was made."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    kind, repo_id = repository.kind, repository.id
    remote = Remote.read(api, kind, repo_id)
    if remote is None:
        # Somebody else may be making it at this moment, too.
        api.create_repo(repo_id, repo_type=kind, private=private or None, exist_ok=True)
        remote = Remote.read(api, kind, repo_id)
    if remote is None:
        raise PublishError(
            f"the Hub made {kind} {repo_id}, but does not show it; check what the token may read", wait=0.0
        )
    change = Change.of(repository, remote, tag)
    if change.moves_tag and not move_tag:
        raise PublishError(f"somebody has set tag {tag} in the meantime, on other content")
    head = remote.head
    if change.added or change.deleted:
        operations = [
            *(CommitOperationAdd(name, repository.files[name].content) for name in change.added),
            *(CommitOperationDelete(name) for name in change.deleted),
        ]
        message = f"InterpBench Hub {tag.removeprefix('v')}"
        commit = api.create_commit(repo_id, operations, commit_message=message, repo_type=kind, parent_commit=head)
        head = commit.oid
    if remote.tags.get(tag) == head:
        return
    if tag in remote.tags:
        api.delete_tag(repo_id, tag=tag, repo_type=kind)
    api.create_tag(repo_id, tag=tag, revision=head, repo_type=kind)


def _update_collection(
    account: Account, repositories: Sequence[Repository], *, private: bool, dry_run: bool, may_create: bool
) -> list[Outcome]:
    """The Collection; nothing if there is none and none is to be made."""
    what = f"collection {account.namespace}/{TITLE}"
    found: list[CollectionChange] = []

    def work() -> None:
        change = CollectionChange.read(account.api, account.namespace, repositories)
        found.append(change)
        if not dry_run and len(change) and (change.collection is not None or may_create):
            change.apply(account.api, account.namespace, private=private)

    try:
        account.patiently(work)
    except PublishError as error:
        return [Outcome(what, "failed", detail=str(error))]
    # What there was to do at first: a second try finds only what the first one left.
    change = found[0]
    if change.collection is None and not may_create:
        return []
    status = "created" if change.collection is None else "updated" if len(change) else "unchanged"
    return [Outcome(what, status, len(change), detail=change.summary)]


def _outcome(change: Change) -> Outcome:
    """What a change comes to, once it is made."""
    n_files = len(change.added) + len(change.deleted)
    return Outcome(str(change.repository), _STATUS[change.state], n_files, change.n_bytes, change.summary)
