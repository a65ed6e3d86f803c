"""The network by which the machines of a run reach one another."""

import os
import socket

import psutil

from engine.runtime import hardware


def choose_interface() -> None:
    """Have gloo listen on the interface that leads to the other machines, unless GLOO_SOCKET_IFNAME names one.

    Left alone it takes the address that the host's own name stands for, which on Debian and Ubuntu is 127.0.1.1: no
    other machine reaches that. NCCL chooses well by itself. Nothing happens where all processes are on this machine.
    """
    on_this_machine = hardware.local_processes() >= int(os.environ.get("WORLD_SIZE", "1"))
    host, port = os.environ.get("MASTER_ADDR", "localhost"), int(os.environ.get("MASTER_PORT", "29500"))
    if on_this_machine or host in ("localhost", "127.0.0.1", "::1") or os.environ.get("GLOO_SOCKET_IFNAME"):
        return
    interface = _interface_to(host, port)
    if interface is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = interface


def _interface_to(host: str, port: int) -> str | None:
    """The interface from which `host` is reached; where that is this machine, its only way out, or the usual one."""
    states = psutil.net_if_stats()
    outward = {
        address.address: name
        for name, found in psutil.net_if_addrs().items()
        for address in found
        if states[name].isup
        and address.family in (socket.AF_INET, socket.AF_INET6)
        and not _is_loopback(address.address)
    }
    # An address of a network that is there for documentation alone: asking for the way there sends nothing.
    for target in (host, "192.0.2.1"):
        interface = outward.get(_source_address(target, port))
        if interface is not None:
            return interface
    names = set(outward.values())
    return names.pop() if len(names) == 1 else None


def _source_address(host: str, port: int) -> str | None:
    """The own address from which packets to `host` would be sent; None where there is no way. Nothing is sent."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return probe.getsockname()[0]
    except OSError:
        return None


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
