"""Who asks: tokens, their users, and what these may read and write."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.local_hub.errors import HubError, invalid_credentials

WRITING_ROLES = ("admin", "write", "contributor")


@dataclass(frozen=True)
class Account:
    """A user as one token shows it: `role` is the token's, `organizations` has the user's role in each."""

    name: str
    role: str = "write"
    organizations: Mapping[str, str] = field(default_factory=dict)

    def may_read(self, namespace: str) -> bool:
        """Whether the private repositories of this user or organization are open to the account."""
        return namespace == self.name or namespace in self.organizations

    def may_write(self, namespace: str) -> bool:
        """Whether the account may create and change repositories of this user or organization."""
        is_member = namespace == self.name or self.organizations.get(namespace) in WRITING_ROLES
        return is_member and self.role == "write"

    def require_write(self, namespace: str, what: str = "repository") -> None:
        """Raise the Hub's 403 unless the account may write to the namespace."""
        if not self.may_write(namespace):
            message = f"You don't have the rights to create or change a {what} under the namespace {namespace!r}"
            raise HubError(403, message)

    def whoami(self) -> dict[str, Any]:
        """What /api/whoami-v2 answers."""
        organizations = [
            {
                "type": "org",
                "id": f"org-{name}",
                "name": name,
                "fullname": name,
                "email": None,
                "canPay": False,
                "periodEnd": None,
                "isEnterprise": False,
                "roleInOrg": role,
            }
            for name, role in self.organizations.items()
        ]
        return {
            "type": "user",
            "id": f"user-{self.name}",
            "name": self.name,
            "fullname": self.name,
            "email": None,
            "emailVerified": True,
            "isPro": False,
            "orgs": organizations,
            "auth": {"type": "access_token", "accessToken": {"displayName": "local", "role": self.role}},
        }


class Accounts:
    """The users of a Hub by their tokens."""

    def __init__(
        self,
        users: Mapping[str, str],
        orgs: Mapping[str, Sequence[str] | Mapping[str, str]],
        read_only: Collection[str],
    ) -> None:
        self.by_token = {
            token: Account(name, "read" if token in read_only else "write", roles_in(orgs.get(name, ())))
            for token, name in users.items()
        }
        self.organizations = {name for account in self.by_token.values() for name in account.organizations}

    def of(self, token: str | None) -> Account | None:
        """The account of a token; None without a token. A token that no user has is refused."""
        if token is None:
            return None
        if token not in self.by_token:
            raise invalid_credentials()
        return self.by_token[token]

    def kind(self, namespace: str) -> str:
        """Whether a namespace is a user or an organization, in the Hub's words."""
        return "org" if namespace in self.organizations else "user"


def roles_in(organizations: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """The role in each organization: as given, or "write" where only names are given."""
    if isinstance(organizations, Mapping):
        return dict(organizations)
    return dict.fromkeys(organizations, "write")
