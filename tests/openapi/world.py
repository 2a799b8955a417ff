"""What Schemathesis can't make up: scenes in every state, and what opens them."""

import base64
import collections
import hashlib
import http.cookiejar
import json
import random
import threading
import time

import requests

SCENE_TTL = 20
# How long an expired scene is still known, at least.
AFTERLIFE = 50

STATES = ["waiting", "scanned", "confirmed", "redeemed", "declined", "cancelled", "expired"]

# client_id: its secret, if it has one. As in scanlogin.toml.
CLIENTS = {"site": "the-secret-of-the-site", "page": None, "careful": None}

# The names of secrets in replies.
SECRETS = ["browser_secret", "confirm_token", "code", "access_token", "id_token"]

VERIFIER = "a" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
JPEG = b"\xff\xd8\xff\xe0 a picture \xff\xd9"

# How WeChat misbehaves now and then. None of these costs an access_token: of those there are few in a day.
FAULTS = [
    *({"errcode": code} for code in (-1, 40029, 40163, 40226, 45009, 45011, 41030, 40097)),
    {"status": 500},
    {"body": "<html>busy</html>"},
    {"truncate": True},
    {"delay_ms": 50},
]


class Scene:
    """One scene, and all that was given to those who take part in it."""

    def __init__(self, started, client):
        self.id = started["scene"]
        self.browser_secret = started["browser_secret"]
        self.event_id = started["id"]
        self.client = client
        self.state = "waiting"
        # How it ended, once the service told so.
        self.ended = None
        self.born = time.monotonic()
        self.confirm_token = self.number = self.code = self.avatar = self.short_code = None

    def is_over(self):
        """Whether its time is, whatever it was last seen to be."""
        return time.monotonic() - self.born > SCENE_TTL + 1


class World:
    """Makes scenes, and remembers them for a while."""

    def __init__(self, base, seed):
        self.base = base
        self.random = random.Random(seed)
        self.http = requests.Session()
        # A browser has few scenes; the cookies of thousands would fill any request.
        self.http.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self.lock = threading.RLock()
        self.scenes = collections.OrderedDict()
        self.access_tokens = []
        # What must stand in no log: replies that hold secrets, and secrets by what they are.
        self.told = []
        self.secrets = collections.defaultdict(list)
        self.secrets["a client's secret"] += [secret for secret in CLIENTS.values() if secret]

    def chance(self, share):
        return self.random.random() < share

    def call(self, method, path, bearer=None, **more):
        headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
        reply = self.http.request(method, self.base + path, headers=headers, timeout=10, **more)
        self.hear(reply)
        return reply

    def hear(self, reply):
        """Keeps the secrets that it gives."""
        if reply.status_code >= 300:
            return
        try:
            told = json.loads(reply.content)
        except ValueError:
            return
        if isinstance(told, dict):
            told = {name: told[name] for name in SECRETS if name in told}
            self.told += [told] if told else []

    def wx_code(self, of=4):
        """A fresh wx.login code, of one of few people: so that some scan what another scanned."""
        openid = f"person-{self.random.randrange(of)}"
        code = self.call("POST", "/simulator/login", json={"openid": openid}).json()["code"]
        self.secrets["a code of wx.login"].append(code)
        return code

    def misbehave(self, call):
        """The next call of this name meets a WeChat that is not itself."""
        fault = dict(self.random.choice(FAULTS), call=call)
        # One at a time: those that nobody met would pile up.
        self.call("DELETE", "/simulator/faults")
        reply = self.call("POST", "/simulator/faults", json=fault)
        assert reply.status_code == 204, f"{fault}: {reply.status_code} {reply.text}"

    def scene(self, state=None):
        """A scene in this state, or in any."""
        state = state or self.random.choice(STATES)
        if state == "expired":
            ended = [
                scene
                for scene in self.scenes.values()
                if scene.is_over() and scene.state in ("waiting", "scanned") and time.monotonic() - scene.born < AFTERLIFE
            ]
            return self.random.choice(ended) if ended else self.start()
        known = [scene for scene in self.scenes.values() if scene.state == state and not scene.is_over()]
        if known and self.chance(0.5):
            return self.random.choice(known[-16:])
        scene = self.start()
        self.bring(scene, state)
        return scene

    def start(self):
        client = self.random.choice(list(CLIENTS))
        asked = {"client_id": client, "code_challenge": CHALLENGE, "nonce": "n"}
        reply = self.call("POST", "/scenes", json=asked)
        assert reply.status_code == 201, reply.text
        return self.keep(Scene(reply.json(), client))

    def keep(self, scene):
        self.scenes[scene.id] = scene
        while len(self.scenes) > 500:
            self.scenes.popitem(last=False)
        return scene

    def bring(self, scene, state):
        """As far as WeChat lets it, which may be misbehaving."""
        at = f"/scenes/{scene.id}"
        if state == "cancelled":
            self.call("DELETE", at, scene.browser_secret)
        if state in ("scanned", "confirmed", "redeemed", "declined"):
            scanned = self.call("POST", f"{at}/scan", json={"code": self.wx_code(), "entry_scene": 1047})
            if scanned.status_code != 200:
                return
            scene.confirm_token = scanned.json()["confirm_token"]
            scene.number = self.look(scene).get("match_number")
        if state == "declined":
            self.call("POST", f"{at}/decline", scene.confirm_token)
        if state in ("confirmed", "redeemed"):
            if self.chance(0.5):
                reply = self.call("PUT", f"{at}/avatar", scene.confirm_token, data=JPEG)
                scene.avatar = reply.json()["avatar_url"].rsplit("/", 1)[1]
            self.call("POST", f"{at}/confirm", scene.confirm_token, json={"match_number": scene.number})
        self.look(scene)
        if state == "redeemed" and scene.code:
            reply = self.call("POST", "/token", data=self.redemption(scene), auth=self.credentials(scene))
            if reply.status_code == 200:
                self.access_tokens.append(reply.json()["access_token"])
                scene.state = "redeemed"

    def look(self, scene):
        """Takes over what its browser is told."""
        told = self.call("GET", f"/scenes/{scene.id}", scene.browser_secret).json()
        scene.state, scene.event_id = told["state"], told["id"]
        scene.code = told.get("code")
        return told

    def redemption(self, scene):
        form = {"grant_type": "authorization_code", "code": scene.code, "code_verifier": VERIFIER}
        return form if CLIENTS[scene.client] else form | {"client_id": scene.client}

    def credentials(self, scene):
        secret = CLIENTS[scene.client]
        return (scene.client, secret) if secret else None
