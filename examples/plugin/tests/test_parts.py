"""Every part keeps the rules of its family."""

from wave_parts.backbone import CONVIT
from wave_parts.combine import RUNNING
from wave_parts.decoder import WAVE
from wave_parts.loss import HUBER
from wave_parts.metric import DELTA_1
from wave_parts.operation import SHIFT
from wave_parts.sampler import HALTON
from wave_parts.schedule import RAMP

from dtme_search.tasks import depth
from dtme_search.testing import (
    check_backbone,
    check_combine,
    check_decoder,
    check_loss,
    check_metric,
    check_operation,
    check_sampler,
    check_schedule,
)


def test_backbone():
    check_backbone(CONVIT, name="convit")


def test_decoder():
    check_decoder(WAVE, name="wave")


def test_operation():
    check_operation(SHIFT, name="shift")


def test_loss():
    check_loss(HUBER, depth(), name="huber")


def test_metric():
    check_metric(DELTA_1, depth(), name="delta_1")


def test_schedule():
    check_schedule(RAMP, name="ramp")


def test_combine():
    check_combine(RUNNING, name="running")


def test_sampler():
    check_sampler(HALTON, name="halton")
