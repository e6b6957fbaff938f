"""Tenants, users and API keys that a test makes for itself."""

import base64
import json
import secrets
import urllib.parse

from rest import Api, bearer, request

USERS = "/api/v2/users"
KEYS = "/tm/api/v1/api-keys"
PASSWORD = "a password of people"


def create_tenant(platform, prefix):
    """A fresh tenant, as an API key of its administrator sees it."""
    tenant = f"{prefix}-{secrets.token_hex(4)}"
    admin = {"username": "admin", "name": "Admin", "password": PASSWORD}
    body = {"tenantId": tenant, "name": prefix.title(), "admin": admin}
    platform.api.call("POST", "/api/v2/tenants", expect=201, body=body)
    user = as_user(platform, tenant, "admin")
    return with_key(Api(platform.http, None, tenant, credentials=user.credentials), role="admin")


def with_key(api, **rights):
    """Another caller of the same tenant, with an API key that has a `role`, `grants` or both."""
    made = create_key(api, **rights)
    return Api(api.base, made["key"], api.tenant)


def create_key(api, **rights):
    """The resource of a new API key, with the key."""
    return api.call("POST", KEYS, expect=201, body={"name": "e2e", **rights})


def create_user(api, **rights):
    """The resource of a new user, whose password is `PASSWORD`."""
    body = {"username": f"user-{secrets.token_hex(4)}", "password": PASSWORD, **rights}
    return api.call("POST", USERS, expect=201, body=body)


def login(platform, tenant, username, password=PASSWORD):
    """Any answer to a login."""
    body = {"tenant": tenant, "username": username, "password": password}
    return request("POST", f"{platform.http}/tm/api/v1/login", body=body)


def as_user(platform, tenant, username, password=PASSWORD):
    """A caller with an access token."""
    answer = login(platform, tenant, username, password)
    assert answer.status == 200, answer.body
    return Api(platform.http, None, tenant, credentials=bearer(answer.json()["access_token"]))


def realm(platform, tenant, place, **form):
    """Any answer of the realm's token endpoint, or of another place beside it."""
    url = f"{platform.http}/auth/realms/{tenant}/protocol/openid-connect/{place}"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    return request("POST", url, body=urllib.parse.urlencode(form).encode(), headers=headers)


def encoded(part):
    """A part of a signed token, or of one that pretends to be signed."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def require_of_clients(api, transports):
    """Sets what the tenant requires of clients that connect, by transport."""
    block = {"transports": {"mqtt": transports}}
    config = {"kpc": {"kaa": {"tenants": {api.tenant: {"config": block}}}}}
    api.put("/tekton/api/v1/tenant-configs", config)
