"""Collections of repositories, and their endpoints."""

import re
from dataclasses import dataclass, field
from typing import Any

from tests.local_hub.accounts import Account
from tests.local_hub.errors import HubError
from tests.local_hub.exchange import Answer, Call, Router
from tests.local_hub.store import KINDS, now, object_id

MAX_TITLE, MAX_DESCRIPTION, MAX_NOTE = 60, 150, 500
ITEMS_IN_LISTS = 4
COLLECTION = "/api/collections/(?P<slug>[^/]+/[^/]+)"

router = Router()


@dataclass
class Item:
    """A repository, a paper or another collection in a collection."""

    oid: str
    kind: str
    name: str
    note: str = ""

    def json(self, position: int) -> dict[str, Any]:
        """The item as the Hub writes it."""
        found: dict[str, Any] = {"_id": self.oid, "type": self.kind, "id": self.name, "position": position}
        return found | {"note": {"html": self.note, "text": self.note}} if self.note else found


@dataclass
class Collection:
    """A titled list of items; its slug follows the title, its id stays."""

    owner: str
    title: str
    description: str = ""
    is_private: bool = False
    theme: str = "orange"
    items: list[Item] = field(default_factory=list)
    modified: str = field(default_factory=now)
    oid: str = ""

    def __post_init__(self) -> None:
        self.oid = self.oid or object_id("collection", self.owner, self.title, now())

    @property
    def slug(self) -> str:
        """The name in addresses."""
        return f"{self.owner}/{re.sub('[^a-z0-9]+', '-', self.title.lower()).strip('-')}-{self.oid}"

    def json(self, call: Call) -> dict[str, Any]:
        """The collection as the Hub writes it, without the items that the account may not see."""
        items = [item for item in self.items if is_visible(call, item)]
        return {
            "slug": self.slug,
            "title": self.title,
            "description": self.description,
            "owner": {"name": self.owner, "type": call.accounts.kind(self.owner)},
            "items": [item.json(position) for position, item in enumerate(items)],
            "lastUpdated": self.modified,
            "position": call.shelf.position(self),
            "private": self.is_private,
            "theme": self.theme,
            "upvotes": 0,
            "gating": False,
        }


class Shelf:
    """All collections of a Hub, in the order in which their owners see them."""

    def __init__(self) -> None:
        self.collections: list[Collection] = []

    def position(self, collection: Collection) -> int:
        """Where a collection stands among those of its owner."""
        return [other.oid for other in self.collections if other.owner == collection.owner].index(collection.oid)

    def readable(self, slug: str, account: Account | None) -> Collection:
        """The collection with the id at the end of a slug, whatever title the slug has before it."""
        oid = slug.rsplit("-", 1)[-1]
        for collection in self.collections:
            if collection.oid == oid and may_see(account, collection):
                return collection
        raise HubError(404, "Collection not found")

    def writable(self, slug: str, account: Account) -> Collection:
        """The same, if the account may change it."""
        collection = self.readable(slug, account)
        account.require_write(collection.owner, "collection")
        return collection


def may_see(account: Account | None, collection: Collection) -> bool:
    """Whether an account, or somebody without one, may know of a collection."""
    return not collection.is_private or (account is not None and account.may_read(collection.owner))


def is_visible(call: Call, item: Item) -> bool:
    """Whether the account may know of an item."""
    if item.kind not in KINDS:
        return True
    repository = call.store.repositories.get((item.kind, item.name))
    return repository is not None and call.store.is_visible(repository, call.account)


def short_text(content: dict[str, Any], name: str, limit: int) -> str:
    """A text of a body that must be no longer than the limit; empty where there is none."""
    text = content.get(name) or ""
    if not isinstance(text, str):
        raise HubError(400, f'"{name}" must be a string')
    if len(text) > limit:
        raise HubError(400, f'"{name}" length must be less than or equal to {limit} characters long')
    return text


def item_of(collection: Collection, oid: str) -> Item:
    """An item of a collection by its id."""
    for item in collection.items:
        if item.oid == oid:
            return item
    raise HubError(404, "Item not found in collection")


@router.on("POST", "/api/collections")
def create(call: Call) -> Answer:
    """A new collection; 409 with its slug where its owner has one of the same title."""
    content = call.json()
    owner = content.get("namespace") or call.user.name
    call.user.require_write(owner, "collection")
    title, description = short_text(content, "title", MAX_TITLE), short_text(content, "description", MAX_DESCRIPTION)
    if not title:
        raise HubError(400, '"title" is required')
    for other in call.shelf.collections:
        if (other.owner, other.title) == (owner, title):
            raise HubError(409, "Collection already exists", content={"slug": other.slug})
    collection = Collection(owner, title, description, bool(content.get("private")))
    call.shelf.collections.append(collection)
    return Answer.json(collection.json(call))


@router.on("GET", "/api/collections")
def list_collections(call: Call) -> Answer:
    """Collections by owner or item: without their positions, which the client adds, and with few of their items."""
    owners, wanted = call.query.get("owner"), call.query.get("item", [])
    found: list[dict[str, Any]] = []
    for collection in call.shelf.collections:
        content = collection.json(call)
        items = {f"{item['type']}s/{item['id']}" for item in content["items"]}
        if may_see(call.account, collection) and (not owners or collection.owner in owners) and items >= set(wanted):
            del content["position"]
            found.append({**content, "items": content["items"][:ITEMS_IN_LISTS]})
    return call.page(found)


@router.on("GET", COLLECTION)
def get(call: Call, slug: str) -> Answer:
    """A whole collection."""
    return Answer.json(call.shelf.readable(slug, call.account).json(call))


@router.on("PATCH", COLLECTION)
def update(call: Call, slug: str) -> Answer:
    """Change what is said about a collection, or its place."""
    collection, content = call.shelf.writable(slug, call.user), call.json()
    title = short_text(content, "title", MAX_TITLE) or collection.title
    if "description" in content:
        collection.description = short_text(content, "description", MAX_DESCRIPTION)
    collection.title = title
    collection.is_private = bool(content.get("private", collection.is_private))
    collection.theme = content.get("theme", collection.theme)
    if "position" in content:
        call.shelf.collections.remove(collection)
        own = [other for other in call.shelf.collections if other.owner == collection.owner]
        later = own[content["position"] :]
        place = call.shelf.collections.index(later[0]) if later else len(call.shelf.collections)
        call.shelf.collections.insert(place, collection)
    collection.modified = now()
    return Answer.json({"success": True, "data": collection.json(call)})


@router.on("DELETE", COLLECTION)
def delete(call: Call, slug: str) -> Answer:
    """Remove a collection, not what it lists."""
    call.shelf.collections.remove(call.shelf.writable(slug, call.user))
    return Answer.json({"success": True})


@router.on("POST", f"{COLLECTION}/items")
def add_item(call: Call, slug: str) -> Answer:
    """Put an item at the end of a collection; 409 if it is in it."""
    collection, content = call.shelf.writable(slug, call.user), call.json()
    kind, name = content["item"]["type"], content["item"]["id"]
    note = short_text(content, "note", MAX_NOTE)
    if kind in KINDS:
        call.store.readable(kind, name, call.account)
    if any((item.kind, item.name) == (kind, name) for item in collection.items):
        raise HubError(409, "Item already in collection")
    collection.items.append(Item(object_id("item", collection.oid, kind, name), kind, name, note))
    collection.modified = now()
    return Answer.json(collection.json(call))


@router.on("PATCH", f"{COLLECTION}/items/(?P<oid>[^/]+)")
def update_item(call: Call, slug: str, oid: str) -> Answer:
    """Change the note of an item, an empty one takes it away, or the item's place."""
    collection, content = call.shelf.writable(slug, call.user), call.json()
    item = item_of(collection, oid)
    if "note" in content:
        item.note = short_text(content, "note", MAX_NOTE)
    if "position" in content:
        collection.items.remove(item)
        collection.items.insert(content["position"], item)
    collection.modified = now()
    return Answer.json({"success": True})


@router.on("DELETE", f"{COLLECTION}/items/(?P<oid>[^/]+)")
def delete_item(call: Call, slug: str, oid: str) -> Answer:
    """Take an item out of a collection."""
    collection = call.shelf.writable(slug, call.user)
    collection.items.remove(item_of(collection, oid))
    collection.modified = now()
    return Answer.json({"success": True})
