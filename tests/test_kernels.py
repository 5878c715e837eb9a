"""Forked kernels: as fresh as others, out of the way of the process that asked for them."""

import os

import pytest
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import local_provisioner

from kexue_lab.course.kernels import can_fork, launch_forked_kernel
from kexue_lab.course.notebooks import kernel_address

pytestmark = pytest.mark.skipif(not can_fork(), reason="no forked kernels on this system")
LOOK = """
import os, sys, time
import matplotlib.pyplot as plt
print(os.getpid() == os.getpgid(0), os.environ["ASKED"], os.getcwd(), "torch" in sys.modules)
print("left" in globals(), plt.get_backend())
left = 1
"""


@pytest.fixture
def start(monkeypatch, tmp_path):
    monkeypatch.setattr(local_provisioner, "launch_kernel", launch_forked_kernel)
    monkeypatch.setenv("ASKED", "yes")
    managers = []

    def start():
        folder = tmp_path / str(len(managers))
        folder.mkdir()
        manager = KernelManager(kernel_name="python3", **kernel_address(folder))
        manager.start_kernel(cwd=str(tmp_path))
        managers.append(manager)
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=120)
        return manager, client

    yield start
    for manager in managers:
        manager.shutdown_kernel(now=True)


def said(client, code):
    """What the code prints."""
    text = []
    client.execute_interactive(
        code,
        timeout=120,
        output_hook=lambda message: text.append(message["content"].get("text", "")),
    )
    return "".join(text)


def test_a_kernel_has_what_it_was_given_and_nothing_of_another(start, tmp_path):
    expected = f"True yes {tmp_path} True\nFalse module://matplotlib_inline.backend_inline\n"
    for _ in range(2):
        _, client = start()
        assert said(client, LOOK) == expected
        client.stop_channels()


def test_a_killed_kernel_is_dead_and_takes_nobody_along(start):
    manager, client = start()
    process = manager.provisioner.process
    assert process.poll() is None
    assert process.pid != os.getpgid(0) == os.getpgid(os.getpid())
    client.stop_channels()
    process.kill()
    assert process.wait(60) < 0
    assert process.poll() == process.wait()
    process.kill()  # of one that is dead already
