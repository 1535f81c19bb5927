"""Endpoints that move files: trees, preparing and making commits, uploading large files, downloading."""

import base64
import binascii
import json
import re
from typing import Any
from urllib.parse import parse_qs

from tests.local_hub import cards
from tests.local_hub.errors import ENTRY_NOT_FOUND, REVISION_NOT_FOUND, HubError
from tests.local_hub.exchange import Answer, Call, Router
from tests.local_hub.repository_routes import REPOSITORY
from tests.local_hub.store import LARGE_SUFFIXES, MAX_REGULAR_SIZE, POINTER_SIZE, File, object_id

GIT = r"/((?P<kind>dataset|space)s/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects"
RANGE = re.compile(r"bytes=(\d*)-(\d*)")

router = Router()


# -- looking -----------------------------------------------------------------------------------------------------------


@router.on("GET", f"{REPOSITORY}/tree/(?P<revision>[^/]+)(/(?P<path>.*))?")
def tree(call: Call, kind: str, name: str, revision: str, path: str) -> Answer:
    """The files and folders below a path, or all of them."""
    files = call.store.readable(kind, name, call.account).at(revision).files
    prefix = f"{path.strip('/')}/" if path.strip("/") else ""
    below = {file_path: file for file_path, file in sorted(files.items()) if file_path.startswith(prefix)}
    if prefix and not below:
        raise HubError(404, f"{path} does not exist on {revision!r}", ENTRY_NOT_FOUND)
    is_recursive = call.flag("recursive")
    folders: dict[str, None] = {}
    found: list[dict[str, Any]] = []
    for file_path, file in below.items():
        parts = file_path.removeprefix(prefix).split("/")
        depth = len(parts) if is_recursive else min(len(parts), 2)
        folders.update(dict.fromkeys(prefix + "/".join(parts[:length]) for length in range(1, depth)))
        if is_recursive or len(parts) == 1:
            found.append(entry(file_path, file))
    return call.page([folder_entry(folder) for folder in folders] + found)


@router.on("POST", f"{REPOSITORY}/paths-info/(?P<revision>[^/]+)")
def paths_info(call: Call, kind: str, name: str, revision: str) -> Answer:
    """The same about named paths; those that are not there are left out."""
    files = call.store.readable(kind, name, call.account).at(revision).files
    if call.headers.get("Content-Type", "").startswith("application/json"):
        paths = call.json().get("paths", [])
    else:
        paths = parse_qs(call.body.decode()).get("paths", [])
    found: list[dict[str, Any]] = []
    for path in (path.strip("/") for path in paths):
        if path in files:
            found.append(entry(path, files[path]))
        elif any(file_path.startswith(f"{path}/") for file_path in files):
            found.append(folder_entry(path))
    return Answer.json(found)


def entry(path: str, file: File) -> dict[str, Any]:
    """A file in a tree."""
    found: dict[str, Any] = {"type": "file", "oid": file.oid, "size": file.size, "path": path}
    if file.is_large:
        found["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": POINTER_SIZE}
    return found


def folder_entry(path: str) -> dict[str, Any]:
    """A folder in a tree."""
    return {"type": "directory", "oid": object_id("folder", path), "size": 0, "path": path}


# -- uploading ---------------------------------------------------------------------------------------------------------


@router.on("POST", f"{REPOSITORY}/preupload/(?P<revision>[^/]+)")
def preupload(call: Call, kind: str, name: str, revision: str) -> Answer:
    """How to send each file, and the id of the one that is there: clients leave out files that have not changed."""
    commit = call.store.writable(kind, name, call.account).at(revision)
    found: list[dict[str, Any]] = []
    for file in call.json()["files"]:
        is_binary = b"\0" in base64.b64decode(file.get("sample", ""))
        is_large = is_binary or file["path"].endswith(LARGE_SUFFIXES) or file["size"] >= MAX_REGULAR_SIZE
        mode = {"path": file["path"], "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
        current = commit.files.get(file["path"])
        found.append(mode if current is None else {**mode, "oid": current.etag})
    return Answer.json({"files": found, "commitOid": commit.oid})


@router.on("POST", f"{GIT}/batch")
def prepare_large_files(call: Call, kind: str, name: str) -> Answer:
    """Where to put each large file; those that some repository has already need not be sent."""
    call.store.writable(kind or "model", name, call.account)
    found: list[dict[str, Any]] = []
    for wanted in call.json()["objects"]:
        answer: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"], "authenticated": True}
        if wanted["oid"] not in call.store.blobs:
            # The address itself is the permission: the client sends no token there.
            upload = {"href": f"{call.address}/large-files/{wanted['oid']}"}
            verify = {"href": f"{call.address}{call.path.removesuffix('batch')}verify"}
            answer["actions"] = {"upload": upload, "verify": verify}
        found.append(answer)
    return Answer.json({"transfer": "basic", "objects": found, "hash_algo": "sha256"})


@router.on("PUT", "/large-files/(?P<sha256>[0-9a-f]{64})")
def put_large_file(call: Call, sha256: str) -> Answer:
    """Take the bytes of a large file, if they are what was announced."""
    received = call.store.blobs.put(call.body)
    if received != sha256:
        raise HubError(400, f"The SHA-256 of the bytes is {received}, not {sha256}")
    return Answer(headers={"ETag": f'"{sha256}"'})


@router.on("POST", f"{GIT}/verify")
def verify_large_file(call: Call, kind: str, name: str) -> Answer:
    """Whether a large file has arrived."""
    call.store.writable(kind or "model", name, call.account)
    if call.json()["oid"] not in call.store.blobs:
        raise HubError(404, "The large file has not arrived")
    return Answer.json({})


@router.on("POST", f"{REPOSITORY}/commit/(?P<branch>[^/]+)")
def commit(call: Call, kind: str, name: str, branch: str) -> Answer:
    """Apply a list of changes to a branch: all of them or, if anything is wrong, none."""
    repository = call.store.writable(kind, name, call.account)
    if call.flag("create_pr"):
        raise HubError(400, "The local Hub has no pull requests")
    if branch not in repository.branches:
        raise HubError(404, f"Invalid rev id: {branch}", REVISION_NOT_FOUND)
    try:
        changes = [(change["key"], change["value"]) for change in map(json.loads, call.body.splitlines())]
    except (ValueError, KeyError) as error:
        raise HubError(400, f"The body is not a list of changes: {error!r}") from error
    header = next((value for key, value in changes if key == "header"), {})
    if not header.get("summary"):
        raise HubError(400, '"summary" is required')
    parent = header.get("parentCommit")
    if parent is not None and not repository.branches[branch].startswith(parent):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repository.at(branch).files)
    for key, value in changes:
        if key != "header":
            apply_change(call, kind, files, key, value)
    made = repository.add_commit(
        files, header["summary"], header.get("description", ""), author=call.user.name, branch=branch
    )
    url = f"{call.address}/{repository.url_path}/commit/{made.oid}"
    return Answer.json({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


def apply_change(call: Call, kind: str, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
    """Apply one change of a commit to its files."""
    path = value["path"]
    if key == "file":
        try:
            data = base64.b64decode(value["content"], validate=True)
        except binascii.Error as error:
            raise HubError(400, f"The content of {path} is not in base64") from error
        check_regular_file(kind, path, data)
        change = {path: call.store.blobs.regular_file(data)}
    elif key == "lfsFile":
        if value["oid"] not in call.store.blobs:
            raise HubError(400, f"LFS pointer pointed to a file that does not exist: {value['oid']}")
        change = {path: call.store.blobs.large_file(value["oid"])}
    elif key in ("deletedFile", "deletedFolder"):
        gone = [path] if key == "deletedFile" else [name for name in files if name.startswith(f"{path.rstrip('/')}/")]
        if not set(gone) & set(files):
            raise HubError(404, f"A file with this name doesn't exist: {path}", ENTRY_NOT_FOUND)
        for name in gone:
            del files[name]
        return
    else:
        raise HubError(400, f"Unknown key {key!r}")
    if any(part in ("", ".", "..", ".git") for part in path.split("/")):
        raise HubError(400, f"Invalid path: {path!r}")
    files.update(change)


def check_regular_file(kind: str, path: str, data: bytes) -> None:
    """Refuse what the Hub does not take into git: files that are too large, and cards with bad metadata."""
    if len(data) > MAX_REGULAR_SIZE:
        raise HubError(400, f"{path} is larger than 10 MiB; such files must be sent as large files")
    if path != "README.md":
        return
    try:
        errors, _ = cards.review(data.decode(), kind)
    except UnicodeDecodeError:
        errors = ["README.md is not UTF-8"]
    if errors:
        raise HubError(400, "Invalid metadata in README.md", content={"errors": [{"message": text} for text in errors]})


# -- downloading -------------------------------------------------------------------------------------------------------


@router.on("GET", r"/((?P<kind>dataset|space)s/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(call: Call, kind: str, name: str, revision: str, path: str) -> Answer:
    """The bytes of a file, or the part of them that a Range header asks for."""
    commit = call.store.readable(kind or "model", name, call.account).at(revision)
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    file = commit.files.get(path)
    if file is None:
        raise HubError(404, "Entry not found", ENTRY_NOT_FOUND, headers={"X-Repo-Commit": commit.oid})
    headers["ETag"] = f'"{file.etag}"'
    if file.is_large:
        headers |= {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(file.size)}
    data = call.store.blobs.read(file.sha256)
    wanted = RANGE.fullmatch(call.headers.get("Range", ""))
    if wanted is None or not any(wanted.groups()) or call.method == "HEAD":
        return Answer(200, data, headers)
    first, last = wanted.groups()
    start = int(first) if first else max(0, len(data) - int(last))
    end = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= end:
        return Answer(416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
    return Answer(206, data[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})
