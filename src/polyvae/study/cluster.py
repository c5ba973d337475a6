"""Joining a Ray cluster, or starting one on this machine; what is wrong with it in one line, within a time limit."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from polyvae.utils.errors import InputError
from polyvae.utils.files import short

LOCAL = "local"
"""In place of an address: Ray is started on this machine, and ended with the study."""
_REACH = 5.0  # seconds for a connection to the port
_JOIN = 40.0  # seconds to join a cluster, and then for every node to answer
_JOINING = """import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
"""
_NODES = "ray status lists the nodes of a running cluster"


def check_address(address: str) -> str:
    """The address, if it has the form of one. Raises InputError."""
    host, _, port = address.rpartition(":")
    if address in (LOCAL, "auto") or (host and "/" not in host and port.isdigit() and int(port) < 2**16):
        return address
    remedy = "a client address (ray://) is not used" if address.startswith("ray://") else "correct it"
    raise InputError(
        f"study: --ray {short(address, 200)}: got no address of a cluster; expected HOST:PORT as ray start printed it, such as "
        f"10.0.0.1:6379, or auto for the cluster of this machine; {remedy}"
    )


def ray_module() -> Any:
    """The package ray. Raises InputError if it is not installed."""
    # Ray reports its use to its authors unless this is set before it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise InputError(
            "study: --ray: ray is not installed; expected the extra cluster; pip install 'polyvae[cluster]'"
        ) from None


@contextmanager
def joined(address: str, jobs: int) -> Iterator[Any]:
    """The package ray, connected to the cluster at ``address``; LOCAL: to one of this machine with ``jobs`` processors.

    Inside, what is printed goes nowhere, because Ray prints the logs of its processes. Raises InputError: Ray is not installed or in use
    already, no cluster answers, or the versions of Python, Ray or polyvae differ.
    """
    check_address(address)
    ray = ray_module()
    if ray.is_initialized():
        raise InputError(
            "study: ray: got a process that is connected to Ray already; expected none, because the study makes and ends the connection; "
            "call ray.shutdown() first"
        )
    if address != LOCAL:
        _check_reachable(address)
    with _handlers_kept(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            with _handlers_kept():
                _connect(ray, address, jobs)
            if address != LOCAL:
                _check_nodes(ray, address)
            yield ray
        finally:
            ray.shutdown()


def _connect(ray: Any, address: str, jobs: int) -> None:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    data = {name: os.environ[name] for name in ("POLYVAE_DATA",) if name in os.environ}
    own = {"num_cpus": jobs, "include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": threads | data},
            **own,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as problem:
        raise InputError(_refused(address, str(problem))) from None


def _check_reachable(address: str) -> None:
    """Raises InputError if there is no cluster: within seconds where nothing listens, else within the time limit.

    Ray itself waits for minutes, and then ends the process; so a process of its own tries first.
    """
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACH).close()
        except OSError as problem:
            raise InputError(
                f"study: --ray {address}: nothing answers there ({problem.strerror or problem}); expected the head node of a Ray cluster; "
                f"start one with ray start --head, or correct the address; {_NODES}"
            ) from None
    try:
        done = subprocess.run(
            [sys.executable, "-c", _JOINING, address],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_JOIN,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            f"study: --ray {address}: no Ray cluster could be joined within {_JOIN:.0f} s; expected the head node of one, and a machine "
            f"that is part of it (ray start --address {address}); {_NODES}"
        ) from None
    if done.returncode:
        raise InputError(_refused(address, done.stderr))


def _refused(address: str, text: str) -> str:
    """The error of Ray in one line."""
    found = re.findall(
        r"^\S*(?:Error|Exception|Exit): ?(.*?)(?=^\S*Error|\Z)", text, re.DOTALL | re.MULTILINE
    )
    why = short(found[-1] if found else text, 400) or "no reason was given"
    if "AuthToken" in text:
        return (
            f"study: --ray {address}: got a cluster that expects another token; expected its token, which ray start --head made; set "
            "RAY_AUTH_MODE=token where the token is in the home directory, or RAY_AUTH_TOKEN_PATH"
        )
    if "version mismatch" in why.lower():
        return (
            f"study: --ray {address}: got a cluster with another version of Python or Ray ({why}); expected the same on every machine; "
            "install the same"
        )
    return f"study: --ray {address}: the cluster cannot be used ({why}); expected a running one that this machine is part of; {_NODES}"


def _check_nodes(ray: Any, address: str) -> None:
    """Raises InputError, which names a node, if it does not answer in time or has another version of polyvae."""

    def version() -> str:  # sent as code, because a node may have no polyvae
        from importlib import metadata

        try:
            return metadata.version("polyvae")
        except metadata.PackageNotFoundError:
            return ""

    expected = version()
    on = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    probe = ray.remote(num_cpus=0, max_retries=0)(version)
    asked = {
        probe.options(scheduling_strategy=on(node["NodeID"], soft=False)).remote(): node
        for node in ray.nodes()
        if node["Alive"]
    }
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=_JOIN)
    for one in late:
        raise InputError(
            f"study: --ray {address}: node {name_of(asked[one])} did not answer within {_JOIN:.0f} s; expected every node to run tasks; "
            "end it with ray stop, or start it again"
        )
    for one in ready:
        try:
            found = ray.get(one)
        except ray.exceptions.RayError as problem:
            raise InputError(
                f"study: --ray {address}: node {name_of(asked[one])} cannot run a task ({short(str(problem), 300)}); expected every "
                "node to run tasks; start it again"
            ) from None
        if found != expected:
            raise InputError(
                f"study: --ray {address}: node {name_of(asked[one])}: got {f'polyvae {found}' if found else 'no polyvae'}; expected "
                f"polyvae {expected}, as on this machine; install the same on every node"
            )


def name_of(node: dict[str, Any]) -> str:
    """A node of ``ray.nodes()`` by its host and address."""
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray changes what a signal does in the process that connects."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
