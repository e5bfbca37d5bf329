"""Servers of an installed nemo-gym in one process, without its launcher and without Ray.

    PYTHON benchmarks/nemo_gym_servers.py CONFIG.yaml[,CONFIG.yaml…] [key=value…]

PYTHON is one that has nemo-gym 0.4.0 (Python 3.12 or 3.13.0); configurations are those of the package, below the folder
that it is installed in. The URL of the head server is printed. benchmarks/real_nemo_gym.py starts this.
"""

import asyncio
import importlib.util
import socket
import sys
from pathlib import Path
from types import ModuleType

import nemo_gym
import uvicorn
from fastapi import FastAPI
from nemo_gym import global_config, server_utils
from nemo_gym.config_types import BaseServerConfig
from omegaconf import OmegaConf

ROOT = Path(nemo_gym.__file__).parent.parent
KINDS = ("resources_servers", "responses_api_agents", "responses_api_models")
HOST = "127.0.0.1"


def listener() -> socket.socket:
    """A socket at a port that nobody has."""
    found = socket.socket()
    found.bind((HOST, 0))
    return found


def placed_servers(config) -> dict[tuple[str, str, str], socket.socket]:
    """Give every server of the configuration a place: (entry, kind, name inside it) → where it listens."""
    found = {}
    for entry, kinds in config.items():
        for kind in KINDS:
            for inner in (kinds.get(kind) or {}) if hasattr(kinds, "get") else ():
                place = found[entry, kind, inner] = listener()
                kinds[kind][inner].host, kinds[kind][inner].port = place.getsockname()
    return found


def app_of(config, entry: str, kind: str, inner: str, client) -> FastAPI:
    """The application of one server."""
    spec = importlib.util.spec_from_file_location(f"{entry}_{kind}_{inner}", ROOT / kind / inner / "app.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    made = server_class(module)
    settings = OmegaConf.to_container(config[entry][kind][inner]) | {"name": entry}
    kept = made.model_fields["config"].annotation.model_validate(settings)
    server = made(config=kept, server_client=client)
    app = server.setup_webserver()
    server.setup_exception_middleware(app)
    return app


def server_class(module: ModuleType) -> type:
    """The server that a module is about: the last one that it defines."""
    classes = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == module.__name__]
    return [one for one in classes if issubclass(one, server_utils.SimpleServer)][-1]


async def main(paths: list[str], changes: list[str]) -> None:
    """Serve until the process is ended."""
    config = OmegaConf.merge(*(OmegaConf.load(ROOT / path) for path in paths), OmegaConf.from_dotlist(changes))
    at = listener()
    host, port = at.getsockname()
    config.head_server = {"host": host, "port": port}
    places = placed_servers(config)
    OmegaConf.resolve(config)
    global_config._GLOBAL_CONFIG_DICT = config
    head = BaseServerConfig(host=host, port=port)
    client = server_utils.ServerClient(head_server_config=head, global_config_dict=config)
    served = [(app_of(config, *place, client), sock) for place, sock in places.items()]
    about = FastAPI()
    about.get("/global_config_dict_yaml")(lambda: OmegaConf.to_yaml(config))
    servers = [(uvicorn.Server(uvicorn.Config(app, log_level="warning")), sock) for app, sock in [*served, (about, at)]]
    print(f"http://{host}:{port}", flush=True)
    await asyncio.gather(*(server.serve([sock]) for server, sock in servers))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1].split(","), sys.argv[2:]))
