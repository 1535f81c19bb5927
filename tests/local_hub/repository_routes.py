"""Endpoints about whole repositories: who asks, creating, listing, describing, branches and tags."""

import re
from typing import Any

from tests.local_hub import cards
from tests.local_hub.errors import REVISION_NOT_FOUND, HubError
from tests.local_hub.exchange import Answer, Call, Router
from tests.local_hub.store import KINDS, POINTER_SIZE, Commit, File, Repository, object_id

REPOSITORY = r"/api/(?P<kind>model|dataset|space)s/(?P<name>[^/]+/[^/]+)"
NAME = re.compile(r"(?!.*(--|\.\.))(?!.*\.git$)[A-Za-z0-9_]([\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)

# What lists leave out unless they are asked for it, as the Hub does.
DETAILS = {
    "model": ("author", "sha", "lastModified", "siblings", "cardData", "model-index", "gated", "disabled"),
    "dataset": ("siblings", "cardData"),
    "space": ("siblings", "cardData"),
}

router = Router()


@router.on("GET", "/api/whoami-v2")
def whoami(call: Call) -> Answer:
    """The user, its organizations and the role of the token."""
    return Answer.json(call.user.whoami())


@router.on("POST", "/api/validate-yaml")
def validate_yaml(call: Call) -> Answer:
    """The errors and warnings about a card; the status is 400 if there are errors."""
    content = call.json()
    errors, warnings = cards.review(content.get("content", ""), content.get("repoType", "model"))
    found = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return Answer.json(found, 400 if errors else 200)


@router.on("POST", "/api/repos/create")
def create(call: Call) -> Answer:
    """A new repository of a user or an organization; 409 with its address where there is one."""
    content = call.json()
    kind, name = repository_of(call, content)
    if kind not in KINDS:
        raise HubError(400, f'"type" must be one of [{", ".join(KINDS)}]')
    if NAME.fullmatch(name.split("/")[1]) is None:
        raise HubError(400, f"Invalid repository name: {name!r}")
    call.user.require_write(name.split("/")[0], kind)
    existing = call.store.repositories.get((kind, name))
    if existing is not None:
        address = {"url": f"{call.address}/{existing.url_path}"}
        raise HubError(409, f"You already created this {kind} repo", content=address)
    is_private = content.get("visibility") == "private" or bool(content.get("private"))
    repository = call.store.create(kind, name, is_private=is_private, author=call.user.name)
    url = f"{call.address}/{repository.url_path}"
    return Answer.json({"url": url, "name": name, "id": object_id(kind, name)})


@router.on("DELETE", "/api/repos/delete")
def delete(call: Call) -> Answer:
    """Remove a repository with its history."""
    key = repository_of(call, call.json())
    call.store.writable(*key, call.account)
    del call.store.repositories[key]
    return Answer(body=b"OK", headers={"Content-Type": "text/plain"})


@router.on("PUT", f"{REPOSITORY}/settings")
def change_settings(call: Call, kind: str, name: str) -> Answer:
    """Open a repository to all, or close it."""
    repository = call.store.writable(kind, name, call.account)
    content = call.json()
    if "visibility" in content or "private" in content:
        repository.is_private = content.get("visibility") == "private" or bool(content.get("private"))
    return Answer.json({"private": repository.is_private})


@router.on("GET", "/api/(?P<kind>model|dataset|space)s")
def list_repositories(call: Call, kind: str) -> Answer:
    """The repositories that the account may see, by author, words in the name and tags."""
    author, searched, filters = call.value("author"), call.query.get("search", []), call.query.get("filter", [])
    found: list[dict[str, Any]] = []
    for repository in sorted(call.store.repositories.values(), key=lambda repository: repository.name):
        if repository.kind != kind or not call.store.is_visible(repository, call.account):
            continue
        description = describe(call, repository, repository.at("main"))
        if author and repository.namespace != author:
            continue
        if not all(text.lower() in repository.name.lower() for text in searched):
            continue
        if set(filters) <= set(description["tags"]):
            found.append(description)
    if (order := call.value("sort")) in ("lastModified", "createdAt"):
        found.sort(key=lambda description: description[order], reverse=True)
    return call.page([select(call, description, kind) for description in found])


@router.on("GET", f"{REPOSITORY}(/revision/(?P<revision>[^/]+))?")
def repository_info(call: Call, kind: str, name: str, revision: str) -> Answer:
    """What a repository holds at a revision."""
    repository = call.store.readable(kind, name, call.account)
    description = describe(call, repository, repository.at(revision or "main"), with_sizes=call.flag("blobs"))
    return Answer.json(expanded(call, description) if "expand" in call.query else description)


@router.on("GET", f"{REPOSITORY}/refs")
def references(call: Call, kind: str, name: str) -> Answer:
    """Branches and tags with their commits."""
    repository = call.store.readable(kind, name, call.account)
    kinds = (("branches", "heads", repository.branches), ("tags", "tags", repository.tags))
    found = {
        plural: [
            {"name": name, "ref": f"refs/{short}/{name}", "targetCommit": commit} for name, commit in targets.items()
        ]
        for plural, short, targets in kinds
    }
    return Answer.json({**found, "converts": []})


@router.on("POST", f"{REPOSITORY}/tag/(?P<revision>[^/]+)")
def create_tag(call: Call, kind: str, name: str, revision: str) -> Answer:
    """A name for a commit, which then never moves."""
    repository = call.store.writable(kind, name, call.account)
    tag = call.json().get("tag")
    if not isinstance(tag, str) or not tag:
        raise HubError(400, '"tag" is required')
    commit = repository.at(revision)
    if tag in repository.tags:
        raise HubError(409, f"Tag reference exists already: {tag}")
    repository.tags[tag] = commit.oid
    return Answer.json({"ref": f"refs/tags/{tag}", "targetCommit": commit.oid})


@router.on("DELETE", f"{REPOSITORY}/tag/(?P<tag>[^/]+)")
def delete_tag(call: Call, kind: str, name: str, tag: str) -> Answer:
    """Take a tag away."""
    remove_reference(call.store.writable(kind, name, call.account).tags, tag)
    return Answer.json({})


@router.on("POST", f"{REPOSITORY}/branch/(?P<branch>[^/]+)")
def create_branch(call: Call, kind: str, name: str, branch: str) -> Answer:
    """A branch that starts where another revision is."""
    repository = call.store.writable(kind, name, call.account)
    if branch in repository.branches:
        raise HubError(409, f"Reference already exists: {branch}")
    repository.branches[branch] = repository.at(call.json().get("startingPoint") or "main").oid
    return Answer.json({"ref": f"refs/heads/{branch}"})


@router.on("DELETE", f"{REPOSITORY}/branch/(?P<branch>[^/]+)")
def delete_branch(call: Call, kind: str, name: str, branch: str) -> Answer:
    """Take a branch away; main stays."""
    repository = call.store.writable(kind, name, call.account)
    if branch == "main":
        raise HubError(403, "The main branch cannot be deleted")
    remove_reference(repository.branches, branch)
    return Answer.json({})


@router.on("GET", f"{REPOSITORY}/commits/(?P<revision>[^/]+)")
def list_commits(call: Call, kind: str, name: str, revision: str) -> Answer:
    """The history of a revision, newest first."""
    repository = call.store.readable(kind, name, call.account)
    return call.page(
        [
            {
                "id": commit.oid,
                "title": commit.title,
                "message": commit.description,
                "date": commit.date,
                "authors": [{"user": commit.author}],
            }
            for commit in repository.history(revision)
        ]
    )


def repository_of(call: Call, content: dict[str, Any]) -> tuple[str, str]:
    """Kind and whole name of the repository that a body speaks of."""
    return content.get("type") or "model", f"{content.get('organization') or call.user.name}/{content.get('name')}"


def remove_reference(references: dict[str, str], name: str) -> None:
    """Remove a branch or a tag that must be there."""
    if references.pop(name, None) is None:
        raise HubError(404, f"Reference does not exist: {name}", REVISION_NOT_FOUND)


def describe(call: Call, repository: Repository, commit: Commit, *, with_sizes: bool = False) -> dict[str, Any]:
    """All that the Hub says about a repository at a commit."""
    card = commit.files.get("README.md")
    found = {} if card is None else cards.readable_metadata(call.store.blobs.read(card.sha256))
    description = {
        "_id": object_id(repository.kind, repository.name),
        "id": repository.name,
        "author": repository.namespace,
        "sha": commit.oid,
        "private": repository.is_private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": cards.hub_tags(found, repository.kind),
        "cardData": found,
        "siblings": [sibling(path, file, with_sizes) for path, file in sorted(commit.files.items())],
        "lastModified": repository.modified,
        "createdAt": repository.created,
        "usedStorage": sum(file.size for file in commit.files.values()),
    }
    if repository.kind == "model":
        description["modelId"] = repository.name
        for name in ("library_name", "pipeline_tag", "model-index"):
            if name in found:
                description[name] = found[name]
    return description


def sibling(path: str, file: File, with_sizes: bool) -> dict[str, Any]:
    """A file in the description of a repository."""
    if not with_sizes:
        return {"rfilename": path}
    found: dict[str, Any] = {"rfilename": path, "size": file.size, "blobId": file.oid}
    if file.is_large:
        found["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": POINTER_SIZE}
    return found


def expanded(call: Call, description: dict[str, Any]) -> dict[str, Any]:
    """The properties that a request names, and the ids."""
    names = ("_id", "id", "modelId", *call.query["expand"])
    return {name: description[name] for name in names if name in description}


def select(call: Call, description: dict[str, Any], kind: str) -> dict[str, Any]:
    """What a list says about a repository: little, unless more is asked for."""
    if "expand" in call.query:
        return expanded(call, description)
    if call.flag("full"):
        return description
    left_out = set(DETAILS[kind]) - ({"cardData", "model-index"} if call.flag("cardData") else set())
    return {name: value for name, value in description.items() if name not in left_out}
