"""Where the tokens of `login` are kept: in the system's keyring, or in a file that only this person can read.

An index of the addresses, without any secret, says where each is. So a command that reaches a server without a login neither
loads the keyring nor asks it.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from mcp.client.auth import OAuthClientProvider
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthMetadata, OAuthToken

from ..config import OAuth

_SERVICE = "trio-mcp-pool"


def folder() -> Path:
    """Where this program keeps what it must remember."""
    base = os.environ.get("XDG_DATA_HOME") or os.environ.get("APPDATA") or Path.home() / ".local" / "share"
    return Path(base) / "trio-mcp-pool"


def address(url: str) -> str:
    """What of a URL says which server it is."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path.rstrip('/')}"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_private(path: Path, data: dict[str, Any]) -> None:
    """Replace a file by one that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent)  # made with mode 0600
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(data, file)
    os.replace(name, path)


def _keyring() -> Any:
    """The system's keyring, if the extra is installed and there is one."""
    try:
        import keyring  # pyright: ignore[reportMissingImports]
        from keyring.backends.fail import Keyring as NoKeyring  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    backend = keyring.get_keyring()
    return None if isinstance(backend, NoKeyring) or backend.priority < 1 else keyring


class Store:
    """The tokens and the registration of one server; a `TokenStorage` of the SDK."""

    def __init__(self, url: str) -> None:
        self.address = address(url)
        self.data: dict[str, Any] = {}
        self.where: str | None = _read(folder() / "logins.json").get(self.address)
        if self.where == "keyring":
            keyring = _keyring()
            text = keyring.get_password(_SERVICE, self.address) if keyring is not None else None
            self.data = json.loads(text) if text else {}
        elif self.where == "file":
            self.data = _read(folder() / "tokens.json").get(self.address, {})

    def save(self) -> None:
        """Keep what is known now."""
        keyring = _keyring()
        where = "file"
        if keyring is not None:
            try:
                keyring.set_password(_SERVICE, self.address, json.dumps(self.data))
                where = "keyring"
            except Exception:  # whatever the backend raises: locked, no session bus, too long
                where = "file"
        if where == "file":
            path = folder() / "tokens.json"
            write_private(path, {**_read(path), self.address: self.data})
        self.where = where
        index = folder() / "logins.json"
        write_private(index, {**_read(index), self.address: where})

    def forget(self) -> bool:
        """Remove what is kept; gives whether there was anything."""
        known = self.where is not None
        if self.where == "keyring" and (keyring := _keyring()) is not None:
            keyring.delete_password(_SERVICE, self.address)
        for name in ("tokens.json", "logins.json"):
            path = folder() / name
            kept = _read(path)
            if kept.pop(self.address, None) is not None:
                write_private(path, kept)
        return known

    async def get_tokens(self) -> OAuthToken | None:
        """For the SDK."""
        found = self.data.get("tokens")
        return OAuthToken.model_validate(found) if found else None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """For the SDK, at a login and at each refresh."""
        import time

        self.data["tokens"] = tokens.model_dump(mode="json", exclude_none=True)
        self.data["expires_at"] = time.time() + tokens.expires_in if tokens.expires_in else None
        self.save()

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """For the SDK."""
        found = self.data.get("client")
        return OAuthClientInformationFull.model_validate(found) if found else None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """For the SDK."""
        self.data["client"] = client_info.model_dump(mode="json", exclude_none=True)
        self.save()


def metadata(redirect: str, scopes: tuple[str, ...] = ()) -> OAuthClientMetadata:
    """What this program says of itself when it registers."""
    return OAuthClientMetadata.model_validate(
        {"client_name": "trio-mcp-pool", "redirect_uris": [redirect], "scope": " ".join(scopes) or None}
    )


def stored_auth(target: OAuth | str) -> httpx2.Auth | None:
    """What sends the stored tokens of a server, and refreshes them; `None` if nobody has logged in there."""
    store = Store(target if isinstance(target, str) else target.url)
    if "tokens" not in store.data:
        return None
    redirect = store.data.get("redirect", "http://127.0.0.1/callback")
    provider = OAuthClientProvider(store.address, metadata(redirect), store)
    # The SDK keeps neither: without them it would send a token that has expired, and look for the refresh at a wrong place.
    provider.context.token_expiry_time = store.data.get("expires_at")
    if store.data.get("metadata"):
        provider.context.oauth_metadata = OAuthMetadata.model_validate(store.data["metadata"])
    return provider
