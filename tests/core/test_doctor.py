"""The doctor: a healthy environment passes, and every fault is named with what to type."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dynperceiver import doctor
from dynperceiver.doctor import Finding

REAL_VERSION = doctor._version


def healthy():
    return Finding('well', 'OK', '1.0')


def uneasy():
    return Finding('odd', 'warn', 'is odd', 'type this')


def broken():
    return Finding('ill', 'FAIL', 'is ill', 'type that')


def stumbling():
    raise KeyError('an earlier fault')


@pytest.fixture
def versions(monkeypatch):
    """Overrides of installed versions, by distribution; ``None`` means that it is not installed."""
    overrides = {}
    monkeypatch.setattr(doctor, '_version', lambda name: overrides[name] if name in overrides else REAL_VERSION(name))
    return overrides


def forbid(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)


def test_this_environment_passes(capsys):
    code = doctor.main(['--json'])
    findings = json.loads(capsys.readouterr().out)
    assert [finding for finding in findings if finding['status'] == 'FAIL'] == [] and code == 0
    assert len(findings) == len(doctor.CHECKS)
    assert all(bool(finding['remedy']) == (finding['status'] != 'OK') for finding in findings)


@pytest.mark.parametrize(('checks', 'code'), [((healthy, uneasy), 0), ((healthy, broken), 1), ((stumbling, healthy), 1)])
def test_the_exit_code_is_1_exactly_where_a_check_fails(monkeypatch, capsys, checks, code):
    monkeypatch.setattr(doctor, 'CHECKS', checks)
    assert doctor.main([]) == code
    assert f'2 checks: {code} failed' in capsys.readouterr().out


def test_the_table_has_a_line_per_check_and_one_for_each_remedy(monkeypatch, capsys):
    monkeypatch.setattr(doctor, 'CHECKS', (healthy, broken, stumbling))
    doctor.main([])
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0].split() == ['well', 'OK', '1.0']
    assert lines[1].split()[:2] == ['ill', 'FAIL'] and lines[2] == 'type: type that'
    assert lines[3].startswith('stumbling') and 'an earlier fault' in lines[3] and lines[4].startswith('type: ')


def test_where_nothing_is_installed_every_finding_has_a_remedy(monkeypatch):
    monkeypatch.setattr(doctor, '_version', lambda name: None)
    for module in ('cv2', 'mmengine', 'mmengine.logging'):
        forbid(monkeypatch, module)
    findings = doctor.run_checks(doctor.CHECKS)
    by_name = {finding.name: finding for finding in findings}
    assert all(finding.remedy for finding in findings if finding.status != 'OK')
    assert {by_name[name].status for name in ('torch', 'numpy', 'mmengine', 'OpenCV', 'checkpoints')} == {'FAIL'}
    optional = ('mmcv', 'mmcv C++ ops', 'mmdet', 'mmaction2', 'video decoder', 'kornia', 'our packages')
    assert {by_name[name].status for name in optional} == {'warn'}


def diagnose(code, *options):
    """The findings by name, told by a fresh process that runs the code first."""
    script = f'import runpy, sys; sys.path.insert(0, {str(Path(doctor.__file__).parents[1])!r}); sys.argv[1:] = ["--json"]\n{code}\n'
    script += 'runpy.run_module("dynperceiver.doctor", run_name="__main__", alter_sys=True)'
    result = subprocess.run([sys.executable, '-W', 'error', *options, '-c', script], capture_output=True, text=True)
    assert result.returncode == 1 and not result.stderr, result.stderr
    return {finding['name']: finding for finding in json.loads(result.stdout)}


def test_it_runs_where_no_package_is_installed_at_all():
    findings = diagnose('', '-S')
    for name in ('torch', 'numpy', 'mmengine'):
        assert findings[name]['detail'] == f'{name} is not installed' and findings[name]['status'] == 'FAIL'
        assert f'pip install "{name}' in findings[name]['remedy'] or findings[name]['remedy'].endswith(f'pip install {name}')


@pytest.mark.parametrize(('module', 'check'), [('numpy', 'numpy'), ('torch', 'torch'), ('mmengine', 'mmengine')])
def test_it_runs_where_one_of_them_is_broken(module, check):
    code = f'import dynperceiver.doctor as d, sys; d.CHECKS = (d.check_{check}, d.check_checkpoints); sys.modules[{module!r}] = None; '
    code += 'sys.exit(d.main(["--json"]))'
    findings = diagnose(code)
    assert findings[check]['status'] == findings['checkpoints']['status'] == 'FAIL'
    assert module in findings[check]['detail'].lower() and findings[check]['remedy']


def test_what_an_installed_package_of_ours_needs_is_no_mere_warning(versions):
    versions.update({'mmaction2': None, 'mmdet': None, 'dynperceiver-action': '0.1.0', 'dynperceiver-det': None})
    assert doctor.check_mmaction().status == 'FAIL'
    mmdet = doctor.check_mmdet()
    assert mmdet.status == 'warn' and 'only dynperceiver-det would need it' in mmdet.detail
    versions.update({'kornia': None, 'dynperceiver-cls': '0.1.0'})
    assert doctor.check_kornia().status == 'FAIL'


@pytest.mark.parametrize(('version', 'status'), [((3, 9), 'FAIL'), ((3, 10), 'OK'), ((3, 12), 'OK'), ((3, 13), 'warn')])
def test_python_versions(monkeypatch, version, status):
    monkeypatch.setattr(sys, 'version_info', version)
    finding = doctor.check_python()
    assert finding.status == status and ('make' in finding.remedy) == (status != 'OK')


@pytest.mark.parametrize(
    ('check', 'name', 'version', 'rule', 'remedy'),
    [
        (doctor.check_torch, 'torch', '2.0.1+cu118', 'at least 2.1', 'torch>=2.1'),
        (doctor.check_numpy, 'numpy', '1.21.6', 'at least 1.22', 'numpy'),
        (doctor.check_mmengine, 'mmengine', '0.7.4', 'at least 0.8 and below 1.0', 'mmengine>=0.8,<1.0'),
        (doctor.check_mmcv, 'mmcv', '2.2', 'at least 2.0 and below 2.2', 'tools/build_mmcv.py'),
        (doctor.check_kornia, 'kornia', '0.7.4', 'at least 0.8 and below 1.0', 'kornia>=0.8,<1'),
        (doctor.check_mmdet, 'mmdet', '2.28.2', 'at least 3.0 and below 4.0', 'mmdet>=3.0'),
        (doctor.check_mmaction, 'mmaction2', '0.24.1', 'at least 1.0 and below 2.0', 'mmaction2>=1.0'),
    ],
)
def test_versions_out_of_range(versions, check, name, version, rule, remedy):
    versions[name] = version
    finding = check()
    assert finding.status == 'FAIL' and version in finding.detail and rule in finding.detail and remedy in finding.remedy


def test_a_numpy_that_torch_was_not_built_for(monkeypatch):
    def fail(shape):
        raise RuntimeError('Numpy is not available')

    monkeypatch.setattr(torch, 'zeros', fail)
    finding = doctor.check_numpy()
    assert finding.status == 'FAIL' and 'Numpy is not available' in finding.detail and 'numpy<2' in finding.remedy


@pytest.mark.parametrize(('check', 'module'), [(doctor.check_mmdet, 'mmdet.models'), (doctor.check_mmaction, 'mmaction.models')])
def test_an_installed_package_that_does_not_import(monkeypatch, versions, check, module):
    versions.update({'mmdet': '3.3.0', 'mmaction2': '1.2.0'})
    forbid(monkeypatch, module)
    finding = check()
    assert finding.status == 'FAIL' and f'import {module} fails' in finding.detail and 'pip install' in finding.remedy


@pytest.mark.parametrize(
    ('ops', 'fault'),
    [(None, 'do not run'), (SimpleNamespace(nms=lambda boxes, scores, threshold: (boxes, torch.tensor([0, 1, 2]))), '[0, 1, 2]')],
)
def test_ops_that_are_missing_or_wrong(monkeypatch, versions, ops, fault):
    versions['mmcv'] = '2.1.0'
    monkeypatch.setitem(sys.modules, 'mmcv.ops', ops)
    finding = doctor.check_mmcv_ops()
    assert finding.status == 'FAIL' and fault in finding.detail and 'tools/build_mmcv.py' in finding.remedy


def test_two_opencv_distributions(versions):
    versions.update({'opencv-python': '4.10.0.84', 'opencv-contrib-python-headless': '5.0.0.93'})
    finding = doctor.check_opencv()
    assert finding.status == 'warn' and 'opencv-python and opencv-contrib-python-headless' in finding.detail
    assert 'uninstall' in finding.remedy


def test_an_opencv_that_does_not_import(monkeypatch):
    forbid(monkeypatch, 'cv2')
    assert doctor.check_opencv().status == 'FAIL'


@pytest.mark.parametrize('brightness', [(), (40, 120), (40, 40, 40)])
def test_a_decoder_that_loses_or_repeats_frames(monkeypatch, versions, brightness):
    versions['decord'] = '0.6.0'
    frames = [SimpleNamespace(asnumpy=lambda value=value: torch.tensor(float(value))) for value in brightness]
    monkeypatch.setitem(sys.modules, 'decord', SimpleNamespace(VideoReader=lambda path: frames, __version__='0.6.0'))
    finding = doctor.check_video()
    assert finding.status == 'FAIL' and '(40, 120, 200)' in finding.detail and 'decord' in finding.remedy


def test_checkpoints_that_torch_refuses():
    allowed = torch.serialization.get_safe_globals()
    try:
        torch.serialization.clear_safe_globals()
        finding = doctor.check_checkpoints()
    finally:
        torch.serialization.add_safe_globals(allowed)
    assert finding.status == 'FAIL' and 'torch.load refuses' in finding.detail and finding.remedy


def test_the_repairs_are_in_place_before_anything_is_checked():
    allowed = torch.serialization.get_safe_globals()
    try:
        torch.serialization.clear_safe_globals()
        assert doctor.run_checks([doctor.check_checkpoints])[0].status == 'OK'
    finally:
        torch.serialization.add_safe_globals(allowed)


def test_our_packages_belong_together(versions, monkeypatch):
    versions.update({'dynperceiver': '0.1.0', 'dynperceiver-action': '0.2.0', 'dynperceiver-cls': None, 'dynperceiver-det': None})
    monkeypatch.setitem(sys.modules, 'dynperceiver_action', SimpleNamespace())
    finding = doctor.check_own_packages()
    assert finding.status == 'FAIL' and 'dynperceiver-action 0.2.0' in finding.detail
    assert finding.remedy.endswith('-e packages/core -e packages/action')
    versions['dynperceiver-action'] = '0.1.0'
    assert doctor.check_own_packages().status == 'OK'
    monkeypatch.setitem(sys.modules, 'dynperceiver_action', None)
    assert 'import dynperceiver_action fails' in doctor.check_own_packages().detail
