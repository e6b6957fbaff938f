"""Logging in as people and programs do, and access tokens that others can verify."""

import base64
import hmac
import secrets

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from processes import eventually
from rest import bearer, request
from tenants import PASSWORD, as_user, create_key, create_tenant, create_user, encoded, login, realm

ME = "/tm/api/v1/me"
JWKS = "/tm/api/v1/jwks"
AUDIENCE = "bandar"


@pytest.fixture(scope="module")
def tenant(platform):
    return create_tenant(platform, "login")


@pytest.fixture
def user(tenant):
    return create_user(tenant, role="operator", name="Ada")


def me(platform, token):
    return request("GET", platform.http + ME, headers=bearer(token))


def test_with_the_tenant_apart_or_in_the_name(platform, tenant, user):
    apart = login(platform, tenant.tenant, user["username"])
    body = {"username": f"{user['username']}@{tenant.tenant}", "password": PASSWORD}
    within = request("POST", f"{platform.http}/tm/api/v1/login", body=body)
    for answer in (apart, within):
        assert answer.status == 200 and answer.headers["Cache-Control"] == "no-store"
        tokens = answer.json()
        assert tokens["token_type"] == "Bearer" and tokens["expires_in"] > 0
        known = me(platform, tokens["access_token"]).json()
        assert (known["tenantId"], known["name"], known["role"]) == (tenant.tenant, "Ada", "operator")
        assert known["subject"] == user["id"] and not known["platformAdministrator"]


@pytest.mark.parametrize("wrong", ["password", "username", "tenant"])
def test_whatever_is_wrong_is_not_told(platform, tenant, user, wrong):
    right = {"tenant": tenant.tenant, "username": user["username"], "password": PASSWORD}
    answer = request("POST", f"{platform.http}/tm/api/v1/login", body={**right, wrong: "nobody"})
    other = request("POST", f"{platform.http}/tm/api/v1/login", body={**right, "password": "guessed"})
    assert answer.status == other.status == 401
    assert answer.json() == other.json()


def test_at_the_places_of_keycloak(platform, tenant, user):
    """What an OpenID Connect library does: discovery, then the token endpoint that it names."""
    base = f"{platform.http}/auth/realms/{tenant.tenant}"
    found = request("GET", f"{base}/.well-known/openid-configuration").json()
    assert found["token_endpoint"].endswith(f"/auth/realms/{tenant.tenant}/protocol/openid-connect/token")
    form = {"grant_type": "password", "username": user["username"], "password": PASSWORD, "client_id": "any"}
    answer = realm(platform, tenant.tenant, "token", **form)
    assert answer.status == 200, answer.body
    assert me(platform, answer.json()["access_token"]).json()["subject"] == user["id"]
    refused = realm(platform, tenant.tenant, "token", **{**form, "password": "guessed"})
    assert refused.status == 401 and refused.json()["error"] == "invalid_grant"
    unknown = realm(platform, tenant.tenant, "token", **{**form, "grant_type": "magic"})
    assert unknown.status == 400 and unknown.json()["error"] == "unsupported_grant_type"


@pytest.mark.parametrize("place", ["form", "header"])
def test_a_program_exchanges_its_key_for_tokens(platform, tenant, place):
    made = create_key(tenant, role="viewer")
    url = f"{platform.http}/auth/realms/{tenant.tenant}/protocol/openid-connect/token"
    body, headers = b"grant_type=client_credentials", {"Content-Type": "application/x-www-form-urlencoded"}
    if place == "form":
        body += f"&client_id={made['id']}&client_secret={made['key']}".encode()
    else:
        pair = base64.b64encode(f"{made['id']}:{made['key']}".encode()).decode()
        headers["Authorization"] = f"Basic {pair}"
    answer = request("POST", url, body=body, headers=headers)
    assert answer.status == 200, answer.body
    token = answer.json()["access_token"]
    assert me(platform, token).json()["role"] == "viewer"
    tenant.call("DELETE", f"/tm/api/v1/api-keys/{made['id']}", expect=204)
    # The token lives no longer than the key that it was made for.
    eventually("the token is refused", lambda: me(platform, token).status == 401, within=2, every=0)


def test_a_refresh_token_is_good_for_one_use(platform, tenant, user):
    first = login(platform, tenant.tenant, user["username"]).json()
    form = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    second = realm(platform, tenant.tenant, "token", **form)
    assert second.status == 200 and me(platform, second.json()["access_token"]).status == 200
    again = realm(platform, tenant.tenant, "token", **form)
    assert again.status == 400 and again.json()["error"] == "invalid_grant"
    # Shown twice means stolen: the session is over, for the thief too.
    successor = {**form, "refresh_token": second.json()["refresh_token"]}
    assert realm(platform, tenant.tenant, "token", **successor).status == 400


@pytest.mark.parametrize("place", ["ours", "keycloak"])
def test_logout_ends_the_session(platform, tenant, user, place):
    token = login(platform, tenant.tenant, user["username"]).json()["refresh_token"]
    if place == "ours":
        ended = request("POST", f"{platform.http}/tm/api/v1/logout", body={"refreshToken": token})
    else:
        ended = realm(platform, tenant.tenant, "logout", refresh_token=token)
    assert ended.status == 204
    form = {"grant_type": "refresh_token", "refresh_token": token}
    assert realm(platform, tenant.tenant, "token", **form).status == 400


def test_others_verify_the_tokens(platform, tenant, user):
    """A service of another team checks a token by itself, with the published keys, also after a rotation."""
    found = request("GET", f"{platform.http}/auth/realms/{tenant.tenant}/.well-known/openid-configuration")
    issuer = found.json()["issuer"]

    def claims(token, keys):
        key = jwt.PyJWKClient(keys).get_signing_key_from_jwt(token)
        return jwt.decode(token, key, algorithms=["ES256"], audience=AUDIENCE, issuer=issuer)

    realm_keys = f"{platform.http}/auth/realms/{tenant.tenant}/protocol/openid-connect/certs"
    old = login(platform, tenant.tenant, user["username"]).json()["access_token"]
    read = claims(old, platform.http + JWKS)
    assert (read["sub"], read["tenant"], read["role"]) == (user["id"], tenant.tenant, "operator")
    platform.api.call("POST", "/tm/api/v1/signing-keys", expect=201)
    new = login(platform, tenant.tenant, user["username"]).json()["access_token"]
    assert jwt.get_unverified_header(old)["kid"] != jwt.get_unverified_header(new)["kid"]
    for token in (old, new):
        assert claims(token, platform.http + JWKS)["sub"] == claims(token, realm_keys)["sub"] == user["id"]
        assert me(platform, token).status == 200


def test_a_token_that_others_signed_is_refused(platform, tenant, user):
    token = login(platform, tenant.tenant, user["username"]).json()["access_token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    header = {"kid": jwt.get_unverified_header(token)["kid"]}
    forged = jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256", headers=header)
    assert me(platform, token).status == 200
    assert me(platform, forged).status == 401
    # A published key as the secret of a symmetric signature, which the library would not make.
    key = jwt.PyJWKClient(platform.http + JWKS).get_signing_key_from_jwt(token).key
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    signed = f"{encoded({'alg': 'HS256', 'typ': 'JWT', **header})}.{encoded(claims)}"
    signature = base64.urlsafe_b64encode(hmac.digest(pem, signed.encode(), "sha256")).rstrip(b"=").decode()
    assert me(platform, f"{signed}.{signature}").status == 401
    head, body, signature = token.split(".")
    assert me(platform, f"{head}.{body}.{signature[:-4]}AAAA").status == 401
    for part in (f"{head}.{body}.", f"{head}.{body}", body):
        assert me(platform, part).status == 401


def test_one_changes_ones_own_password(platform, tenant, user):
    caller = as_user(platform, tenant.tenant, user["username"])
    path, new = f"{ME}/password", f"new {secrets.token_hex(4)}"
    wrong = caller.ask("PUT", path, body={"currentPassword": "guessed", "newPassword": new})
    assert wrong.status == 403
    caller.call("PUT", path, expect=204, body={"currentPassword": PASSWORD, "newPassword": new})
    assert login(platform, tenant.tenant, user["username"]).status == 401
    assert login(platform, tenant.tenant, user["username"], new).status == 200
