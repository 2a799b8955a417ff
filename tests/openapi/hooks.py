"""Lets cases meet real scenes, holds the answers to the whole contract, and counts what was really asked."""

import atexit
import base64
import collections
import json
import os
import re

import jsonschema_rs
import schemathesis
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.meta import TestPhase

from world import CHALLENGE, CLIENTS, JPEG, Scene, World

WORLD = World(os.environ["OPENAPI_BASE"], int(os.environ["OPENAPI_SEED"]))
ASKED = collections.Counter()
SCHEMAS = {}

# In which state a call does what it is for.
HOME = {"token": "confirmed"} | dict.fromkeys(("scan", "code_image", "short_code", "cancel"), "waiting") | dict.fromkeys(
    ("confirm", "decline", "upload_avatar"), "scanned"
)
ENTRIES = [1047, 1048, 1007, 1011, 1012, 1013]
ORIGINS = ["https://www.site.example", "https://evil.example", "null"]


@atexit.register
def tell():
    told = [{"call": call, "status": status, "cases": cases} for (call, status), cases in sorted(ASKED.items())]
    with open(os.environ["OPENAPI_TALLY"], "w") as file:
        json.dump(told, file)
    with open(os.environ["OPENAPI_TOLD"], "w") as file:
        json.dump({"told": WORLD.told, "secrets": WORLD.secrets}, file)


@schemathesis.hook
def before_load_schema(context, raw_schema):
    """A reply may get further fields one day; until the document names them, there are none."""
    for name, schema in raw_schema["components"]["schemas"].items():
        if schema.get("type") == "object" and not name.endswith("Request"):
            schema["additionalProperties"] = False
    components = {"components": raw_schema["components"]}
    for name in ("SceneState", "Problem"):
        SCHEMAS[name] = jsonschema_rs.Draft202012Validator({"$ref": f"#/components/schemas/{name}", **components})


@schemathesis.hook
def before_call(context, case, kwargs):
    # Where a site is sent back to is nobody here.
    kwargs["allow_redirects"] = False
    with WORLD.lock:
        scene = scene_of(case)
        prove(case, scene)
        fill = FILL.get(name_of(case))
        if fill:
            fill(case, scene)
        if WORLD.chance(0.05):
            case.headers["Origin"] = WORLD.random.choice(ORIGINS)


def name_of(case):
    return case.operation.definition.raw.get("operationId")


def is_a_step(case):
    """Whether it follows from what was answered before, by a link of the document."""
    return case.meta is not None and case.meta.phase.name == TestPhase.STATEFUL


def is_made_wrong(case, location):
    """Whether Schemathesis made this part wrong on purpose: then it stays as it is."""
    part = case.meta and case.meta.components.get(location)
    return bool(part and part.mode.is_negative)


def scene_of(case):
    """The scene that the case is about: mostly a real one."""
    asked = case.path_parameters.get("scene")
    if asked is None and WORLD.scenes and name_of(case) != "token":
        return WORLD.random.choice(list(WORLD.scenes.values()))
    # Schemathesis knows scenes too: those that replies told it of.
    if asked in WORLD.scenes and (WORLD.chance(0.2) or is_a_step(case)):
        return WORLD.scenes[asked]
    scene = WORLD.scene(HOME.get(name_of(case)) if WORLD.chance(0.5) else None)
    if asked is not None and not is_made_wrong(case, ParameterLocation.PATH) and WORLD.chance(0.95):
        case.path_parameters["scene"] = scene.id
    return scene


def prove(case, scene):
    """Mostly with what opens the scene."""
    security = case.operation.definition.raw.get("security", [])
    schemes = [name for way in security for name in way]
    if not schemes or WORLD.chance(0.1):
        return
    scheme = WORLD.random.choice(schemes)
    if scheme == "browser_cookie":
        case.cookies[f"scanlogin_{scene.id}"] = scene.browser_secret
    elif scheme == "client":
        if CLIENTS[scene.client]:
            pair = f"{scene.client}:{CLIENTS[scene.client]}".encode()
            case.headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    else:
        secret = getattr(scene, scheme, None) or scene.browser_secret
        case.headers["Authorization"] = f"Bearer {secret}"


def start(case, scene):
    if has_fields(case) and WORLD.chance(0.9):
        case.body["client_id"] = WORLD.random.choice(list(CLIENTS))
        case.body.setdefault("code_challenge", CHALLENGE)
        if WORLD.chance(0.8):
            case.body.pop("env_version", None)


def status(case, scene):
    wait = str(case.query.get("wait", ""))
    if wait.isdigit() and int(wait) > 0:
        # To wait for what does not come takes as long as it says.
        case.query["wait"] = "1"
        case.query["after"] = scene.event_id if WORLD.chance(0.05) else "another"


def stream(case, scene):
    if WORLD.chance(0.5) and scene.state in ("confirmed", "redeemed", "declined", "cancelled"):
        case.headers["Last-Event-ID"] = scene.event_id
    if WORLD.chance(0.5):
        case.headers["Accept"] = "text/event-stream"


def code_image(case, scene):
    if WORLD.chance(0.1):
        WORLD.misbehave("getwxacodeunlimit")


def scan(case, scene):
    if has_fields(case) and WORLD.chance(0.8):
        case.body["code"] = WORLD.wx_code()
        case.body["entry_scene"] = WORLD.random.choice(ENTRIES)
        if WORLD.chance(0.1):
            WORLD.misbehave("jscode2session")


def scan_typed(case, scene):
    if has_fields(case) and WORLD.chance(0.8):
        # Each person may be wrong five times.
        case.body["code"] = WORLD.wx_code(of=10_000)
        shown = [scene.short_code for scene in WORLD.scenes.values() if scene.short_code and not scene.is_over()]
        if shown and WORLD.chance(0.8):
            case.body["short_code"] = WORLD.random.choice(shown[-4:])


def confirm(case, scene):
    if has_fields(case) and WORLD.chance(0.8):
        if scene.number and WORLD.chance(0.8):
            case.body["match_number"] = scene.number
        if isinstance(case.body.get("profile"), dict):
            case.body["profile"]["avatar_url"] = "https://thirdwx.qlogo.cn/picture"


def upload_avatar(case, scene):
    if WORLD.chance(0.7):
        case.body = JPEG


def avatar(case, scene):
    known = [scene.avatar for scene in WORLD.scenes.values() if scene.avatar]
    if known and not is_made_wrong(case, ParameterLocation.PATH) and WORLD.chance(0.7):
        case.path_parameters["avatar"] = WORLD.random.choice(known)


def token(case, scene):
    if has_fields(case) and WORLD.chance(0.8):
        case.body.update(WORLD.redemption(scene if scene.code else WORLD.scene("confirmed")))
        case.body = {name: value for name, value in case.body.items() if value is not None}


def page(case, scene):
    authorize(case.query, not is_made_wrong(case, ParameterLocation.QUERY))


def posted(case, scene):
    authorize(case.body, has_fields(case))


def authorize(asked, has_fields):
    """Mostly what a site that is known asks for."""
    if has_fields and WORLD.chance(0.8):
        asked.update(client_id="site", redirect_uri="https://www.site.example/callback")
        if WORLD.chance(0.7):
            asked.update(response_type="code", scope="openid profile", code_challenge=CHALLENGE, code_challenge_method="S256")
            asked.pop("prompt", None)
            asked.pop("max_age", None)


def userinfo(case, scene):
    if WORLD.access_tokens and WORLD.chance(0.8):
        case.headers["Authorization"] = f"Bearer {WORLD.random.choice(WORLD.access_tokens)}"


def has_fields(case):
    return isinstance(case.body, dict) and not is_made_wrong(case, ParameterLocation.BODY)


FILL = {
    call.__name__: call
    for call in (start, status, stream, code_image, scan, scan_typed, confirm, upload_avatar, avatar, token, page, posted, userinfo)
} | {"userinfo_posted": userinfo}


@schemathesis.hook
def after_call(context, case, response):
    with WORLD.lock:
        ASKED[f"{case.method} {case.path}", response.status_code] += 1
        WORLD.hear(response)
        scene = WORLD.scenes.get(case.path_parameters.get("scene"))
        if case.path == "/scenes" and response.status_code == 201:
            WORLD.keep(Scene(response.json(), "page"))
        elif case.path.endswith("/scan") and response.status_code == 200 and scene:
            scene.confirm_token = response.json()["confirm_token"]
        elif case.path.endswith("/short-code") and response.status_code in (200, 201) and scene:
            scene.short_code = response.json()["short_code"]
        elif case.path == "/short-codes/scan" and response.status_code == 200:
            told = response.json()
            if told["scene"] in WORLD.scenes:
                WORLD.scenes[told["scene"]].confirm_token = told["confirm_token"]
        elif case.path == "/token" and response.status_code == 200:
            WORLD.access_tokens.append(response.json()["access_token"])


@schemathesis.check
def every_answer_is_as_the_contract_says(context, response, case):
    status = response.status_code
    text = response.content.decode(errors="replace")
    kind = header(response, "content-type").split(";")[0]
    assert status < 500 or status in (502, 503, 504), f"{status} is no answer of the contract: {text}"
    assert header(response, "x-request-id"), "no X-Request-Id"
    assert header(response, "cache-control"), "no Cache-Control"
    if status in (429, 503):
        assert re.fullmatch("[1-9][0-9]*", header(response, "retry-after")), f"{status} without Retry-After"
    if status == 401:
        assert header(response, "www-authenticate"), "401 without WWW-Authenticate"
    if status >= 400 and case.path in ("/token", "/userinfo") and status != 405:
        assert kind == "application/json" and json.loads(text)["error"], text
    elif status == 400 and case.path == "/authorize":
        assert kind == "text/html", f"whoever was sent here is shown no page but {kind}: {text}"
    elif status >= 400:
        assert kind == "application/problem+json", f"{status} is not a problem document but {kind}: {text}"
        problem = json.loads(text)
        SCHEMAS["Problem"].validate(problem)
        assert problem["status"] == status, text
        assert problem["request_id"] == header(response, "x-request-id"), text
        assert problem["type"].endswith(f"/problems#{problem['code']}"), text
    if status < 300:
        assert is_proven(case, response), "who brought no secret of this scene was let in"
    if name_of(case) == "status" and status == 200:
        stays_over(case, json.loads(text)["state"])
    if case.method == "DELETE" and status == 204:
        # Of one whose time was over before, there is nothing to cancel.
        stays_over(case, "cancelled", "expired")
    if kind == "text/event-stream":
        for event in text.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in event.splitlines() if line and not line.startswith(":"))
            if "data" in fields:
                told = json.loads(fields["data"])
                SCHEMAS["Problem" if fields["event"] == "unavailable" else "SceneState"].validate(told)
                assert fields["event"] in ("unavailable", told.get("state")), event
                stays_over(case, fields["event"])


def stays_over(case, *states):
    """What ended in one way is never told to be in another state. It is in one of `states`."""
    with WORLD.lock:
        scene = WORLD.scenes.get(case.path_parameters.get("scene"))
        if not scene or "unavailable" in states:
            return
        ends = {"redeemed", "declined", "cancelled", "expired"}.intersection(states)
        if scene.ended:
            assert scene.ended & ends, f"{scene.id} was {' or '.join(sorted(scene.ended))}, and is {' or '.join(states)}"
            ends &= scene.ended
        if ends:
            scene.ended = ends


def is_proven(case, response):
    """Whether the request held what opens its scene, if it takes any."""
    security = case.operation.definition.raw.get("security", [])
    schemes = [name for way in security for name in way]
    scene = WORLD.scenes.get(case.path_parameters.get("scene"))
    sent = response.request.headers
    if "access_token" in schemes:
        return sent.get("authorization", "").removeprefix("Bearer ") in WORLD.access_tokens
    if not scene or not schemes:
        return True
    if "authorization" not in sent and "browser_cookie" in schemes:
        return f"scanlogin_{scene.id}={scene.browser_secret}" in sent.get("cookie", "")
    secret = scene.confirm_token if "confirm_token" in schemes else scene.browser_secret
    return sent.get("authorization") == f"Bearer {secret}"


def header(response, name):
    return (response.headers.get(name) or [""])[0]
