"""The doctor and the backends: whatever a machine has, both say the same, in the same words."""

from __future__ import annotations

from itertools import cycle, product
from pathlib import Path

import pytest

from neuronbert import sdk
from neuronbert.backends import registry
from neuronbert.doctor.diagnosis import diagnose
from neuronbert.errors import BackendUnavailableError

LIBRARIES = (
    None,
    sdk.Library("stub", "1.0"),
    sdk.Library("trace", "2.9.0.2.15.32035"),
    sdk.Library("native", "2.13.3.0"),
)
COMPILERS = (
    None,
    sdk.Compiler("1.0.post1", stub=True, path=None),
    sdk.Compiler("2.28.7631.0", stub=False, path=Path("/bin/sh")),
)
DEVICES = (None, sdk.Device("inf2", 1), sdk.Device("trn2", 16), sdk.Device("trn3", 1), sdk.Device(None, 1))
MACHINES = [
    (*packages, device) for packages, device in zip(product(LIBRARIES, COMPILERS), cycle(DEVICES), strict=False)
]


@pytest.mark.parametrize(("library", "compiler", "device"), MACHINES)
def test_they_agree(library, compiler, device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("find_library", library), ("find_compiler", compiler), ("find_device", device)):
        monkeypatch.setattr(sdk, name, lambda *_, value=value: value)
    for ability in diagnose(root=tmp_path, environ={}).abilities:
        _, backend = registry.resolve_target(ability.target)
        for part, reason in (("compiler", ability.why_not_compile), ("runtime", ability.why_not_run)):
            if not reason:
                getattr(registry, part)(backend, ability.target)
                continue
            with pytest.raises(BackendUnavailableError) as raised:
                getattr(registry, part)(backend, ability.target)
            assert reason in str(raised.value)
