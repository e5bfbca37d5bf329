"""Which servers there are: one resources server, or those that a head server knows by name."""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
import yaml

from easyrlhf.errors import InputError
from easyrlhf.rewards.server import KNOCK, connection_reason

CONFIG = "global_config_dict_yaml"
RESOURCES, AGENTS = "resources_servers", "responses_api_agents"
EVERYWHERE = ("0.0.0.0", "::", "")  # hosts that a server listens on, and at which nobody reaches it


@dataclass(frozen=True)
class Server:
    """A server of the head's configuration.

    kind       RESOURCES or AGENTS
    names      the name of its entry, and the one inside it
    resources  of an agent: the name of the resources server that it works with
    """

    kind: str
    names: tuple[str, str]
    url: str
    resources: str | None


@dataclass(frozen=True)
class GymServers:
    """The servers behind --nemo_gym_url.

    servers  that the head knows; None where the URL is that of a resources server
    name     --nemo_gym_server, for rows that name none
    """

    url: str
    servers: tuple[Server, ...] | None
    name: str | None = None

    def resources(self, row: dict[str, Any]) -> str:
        """URL of the resources server that verifies a row. Raises InputError where none is meant, or known."""
        if self.servers is None:
            return self.url
        name = named_in(row) or self.name
        found = [server for server in self.servers if server.kind == RESOURCES]
        if name is None:
            if len(found) != 1:
                raise InputError(
                    f"--nemo_gym_url {self.url}: rows without agent_ref need --nemo_gym_server, one of "
                    f"{listed(found) or 'none: the head knows no resources server'}"
                )
            return found[0].url
        if (server := self.find(RESOURCES, name)) is None:
            agent = self.find(AGENTS, name)
            server = agent and agent.resources and self.find(RESOURCES, agent.resources)
        if not server:
            raise self.unknown(name, RESOURCES)
        return server.url

    def agent(self, row: dict[str, Any]) -> str:
        """URL of the agent server that plays a row. Raises InputError where none is meant, or known."""
        name = named_in(row) or self.name
        if self.servers is None:
            raise InputError(
                f"--nemo_gym_url {self.url}: is no head server, which --nemo_gym_policy needs to find agents by "
                f"name (it gives no /{CONFIG})"
            )
        if name is None:
            raise InputError(f"--nemo_gym_url {self.url}: rows without agent_ref need --nemo_gym_server, an agent here")
        if (server := self.find(AGENTS, name)) is None:
            raise self.unknown(name, AGENTS)
        return server.url

    def find(self, kind: str, name: str) -> Server | None:
        """The server of this kind whose entry, or else whose name inside it, is this; None where there is none.

        Raises InputError where several entries have it inside.
        """
        known = [server for server in self.servers or () if server.kind == kind]
        for place in (0, 1):
            found = [server for server in known if server.names[place] == name]
            if len(found) > 1:
                raise InputError(
                    f"--nemo_gym_url {self.url}: several servers are called {name}: {listed(found)}; use the name of "
                    "one entry"
                )
            if found:
                return found[0]
        return None

    def unknown(self, name: str, kind: str) -> InputError:
        """The error of a name that the head does not know."""
        what = "agent" if kind == AGENTS else "resources server"
        known = listed([server for server in self.servers or () if server.kind == kind])
        return InputError(f"--nemo_gym_url {self.url}: knows no {what} {name}; it has {known or 'none'}")


def named_in(row: dict[str, Any]) -> str | None:
    """The server that a row names."""
    reference = row.get("agent_ref")
    name = reference.get("name") if isinstance(reference, dict) else None
    return name if isinstance(name, str) and name else None


def listed(servers: list[Server]) -> str:
    """Servers by the names of their entries."""
    return ", ".join(server.names[0] for server in servers)


def find_servers(url: str, name: str | None) -> GymServers:
    """What is behind --nemo_gym_url. Raises InputError when nothing answers there, or a head says what it must not."""
    url = url.rstrip("/")
    answer = knock(url, f"{url}/{CONFIG}")
    if answer.status_code != 200:
        return GymServers(url, None, name)
    try:
        config = yaml.safe_load(json.loads(answer.content))  # a JSON string, which holds YAML
        servers = tuple(servers_in(config, urlsplit(url).hostname or ""))
    except (ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(
            f"--nemo_gym_url {url}: /{CONFIG} must be a JSON string that holds YAML, name → "
            f"resources_servers → name → host, port; it is {answer.text[:200]!r}"
        ) from error
    return GymServers(url, servers, name)


def servers_in(config: dict[str, Any], head: str) -> list[Server]:
    """The servers of a configuration that have a place; `head` is where those are that listen everywhere."""
    found = []
    for outer, kinds in config.items():
        for kind in (RESOURCES, AGENTS) if isinstance(kinds, dict) else ():
            for inner, settings in (kinds.get(kind) or {}).items():
                if not (isinstance(settings, dict) and settings.get("port")):
                    continue
                host = str(settings.get("host") or "")
                host = head if host in EVERYWHERE else host
                host = f"[{host}]" if ":" in host else host
                reference = settings.get("resources_server")
                resources = reference.get("name") if isinstance(reference, dict) else None
                names = str(outer), str(inner)
                found.append(Server(kind, names, f"http://{host}:{int(settings['port'])}", resources))
    return found


def knock(flag: str, url: str) -> requests.Response:
    """What a GET is answered with. Raises InputError when nothing answers."""
    try:
        return requests.get(url, timeout=KNOCK)
    except requests.RequestException as error:
        raise InputError(
            f"--nemo_gym_url {flag}: no server answers at {url} ({connection_reason(error)}); start NeMo Gym's servers "
            "first"
        ) from error
