"""examples/compose.yaml and the image, as far as they can be looked at without containers."""
import os
import re
import shlex
import shutil
import subprocess

import pytest
import yaml

import herald as program
from herald import PROGRAM, REPO

FOLDER = f"{REPO}/examples"
BUILD_ONLY = ("libasan", "libubsan")  # of the tests' build


@pytest.fixture(scope="module")
def compose():
    with open(f"{FOLDER}/compose.yaml") as f:
        return yaml.safe_load(f)


@pytest.fixture
def ours(compose):
    """The services that run pgherald: {name: arguments}."""
    found = {}
    for name, service in compose["services"].items():
        if "build" in service:
            found[name] = service["command"]
            assert isinstance(found[name], list), f"{name}: compose ends a text at its first &, without a word"
    return found


def test_what_pgherald_is_told_in_compose_is_known_to_it(compose, ours):
    assert sorted(args[0] for args in ours.values()) == ["consume", "stream"]
    for name, args in ours.items():
        for variable in compose["services"][name].get("environment", {}):
            option = variable.removeprefix("PGHERALD_").lower().replace("_", "-")
            assert f"--{option}" in program.run(args[0], "--help").out, f"{name}: {variable}"
        if args[0] == "stream":
            shown = program.run(*args, "--print-config")
            assert shown.code == 0 and all(f"//{host}" in shown.out for host in ("nats", "guest")), shown
        else:  # only the host is not known
            done = program.run(*args)
            assert done.code == 1 and "rabbitmq:5672: hostname lookup failed" in done.err


def test_services_of_compose_name_each_other_and_files_that_exist(compose, ours):
    services = compose["services"]
    for name, service in services.items():
        waits = service.get("depends_on", {})
        for other in waits:
            assert other in services
            healthy = isinstance(waits, dict) and waits[other]["condition"] == "service_healthy"
            assert healthy == ("healthcheck" in services[other]), f"{name} waits for {other}"
        for config in service.get("configs", ()):
            assert config["source"] in compose["configs"]
        if "healthcheck" in service:
            command = shlex.split(service["healthcheck"]["test"])[0]
            assert command == "pgherald" or shutil.which(command), f"{name}: there is no {command}"
        if "build" in service:
            context = os.path.join(FOLDER, service["build"]["context"])
            assert os.path.exists(os.path.join(context, service["build"]["dockerfile"]))
    for args in ours.values():  # hosts are services
        for url in (word for word in args if "://" in word):
            assert re.match(r"\w+://(?:[^@/]*@)?(\w+)", url)[1] in services


def test_the_schema_of_compose_is_sql(compose, db):
    db.sql(compose["configs"]["schema"]["content"])
    db.sql("insert into users (name) values ('Ann')")


def test_the_image_has_the_libraries_that_pgherald_wants():
    with open(f"{REPO}/packaging/Dockerfile") as f:
        listed = set(re.search(r"ca-certificates(.*?)&&", f.read(), re.DOTALL)[1].replace("\\", "").split())
    needed = re.findall(r"NEEDED.*\[(.*)\]", subprocess.run(["readelf", "-d", PROGRAM], text=True, check=True,
                                                            capture_output=True).stdout)
    for library in needed:
        if library.startswith(BUILD_ONLY):
            continue
        owner = subprocess.run(["dpkg", "-S", f"*/{library}"], text=True, capture_output=True).stdout
        packages = {line.split(":")[0] for line in owner.splitlines()}
        assert packages & (listed | {"libc6"}), f"{library} is in {packages}, of which the image has none"
