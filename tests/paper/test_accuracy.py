"""The published figures agree with the differences and averages that the paper prints."""

import pytest

from nnunet_xattnres.paper import published


def value(table, method, metric):
    (figure,) = (p for p in published(table) if (p.method, p.metric) == (method, metric))
    return figure.value


def test_extent():
    counts = {table: len(published(table)) for table in (1, 2, 3, 4, 5)}
    # methods x metrics; two methods of Table 1 have no mIoU
    assert counts == {1: 14 * 11 - 2, 2: 14 * 6, 3: 8 * 3, 4: 4 * 2, 5: 4 * 2}
    assert len(published()) == sum(counts.values())


# "Δ vs" rows of Tables 1 and 2
@pytest.mark.parametrize(
    ("table", "base", "ours", "deltas"),
    [
        (1, "U-Net", "UNet + XAttnRes",
         {"DSC": 0.15, "HD95": -0.22, "mIoU": 0.21, "DSC aorta": -4.73, "DSC gallbladder": 1.39,
          "DSC left kidney": -2.95, "DSC right kidney": -1.14, "DSC liver": 2.25, "DSC pancreas": 0.85,
          "DSC spleen": 2.73, "DSC stomach": 2.79}),
        (1, "EMCAD", "EMCAD + XAttnRes",
         {"DSC": 0.12, "HD95": -0.10, "mIoU": 0.20, "DSC aorta": 1.66, "DSC gallbladder": -0.87,
          "DSC left kidney": 0.15, "DSC right kidney": 0.68, "DSC liver": -0.26, "DSC pancreas": -1.81,
          "DSC spleen": 0.57, "DSC stomach": 0.83}),
    ],
)  # fmt: skip
def test_differences_on_synapse(table, base, ours, deltas):
    for metric, delta in deltas.items():
        metric = f"Synapse {metric}"
        assert value(table, ours, metric) - value(table, base, metric) == pytest.approx(delta, abs=1e-9)


@pytest.mark.parametrize(
    ("base", "ours", "deltas"),
    [("U-Net", "UNet + XAttnRes", (0.22, 0.37, 0.21, 0.22, 0.12, 0.18)),
     ("EMCAD", "EMCAD + XAttnRes", (1.33, 0.16, 0.09, 0.11, 0.18, 0.12))],
)  # fmt: skip
def test_differences_on_the_binary_sets(base, ours, deltas):
    metrics = ("parameters (M)", "GFLOPs", "ColonDB DSC", "ClinicDB DSC", "ISIC2017 DSC", "average DSC")
    for metric, delta in zip(metrics, deltas, strict=True):
        assert value(2, ours, metric) - value(2, base, metric) == pytest.approx(delta, abs=1e-9)


def test_averages():
    """The mean of the organs, or of the sets, is the printed mean: of every method with the precision printed."""
    organs = "aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach"
    for method in {p.method for p in published(1)}:
        mean = sum(value(1, method, f"Synapse DSC {organ}") for organ in organs) / 8
        assert value(1, method, "Synapse DSC") == pytest.approx(mean, abs=0.011), method
    for method in {p.method for p in published(2)}:
        mean = sum(value(2, method, f"{name} DSC") for name in ("ColonDB", "ClinicDB", "ISIC2017")) / 3
        assert value(2, method, "average DSC") == pytest.approx(mean, abs=0.011), method


def test_the_tables_agree_where_they_overlap():
    for other, method in (
        ("U-Net (baseline)", "U-Net"), ("EMCAD (baseline)", "EMCAD"), ("U-Net + XAttnRes (both)", "UNet + XAttnRes"),
        ("EMCAD + XAttnRes (both)", "EMCAD + XAttnRes"),
    ):  # fmt: skip
        for metric in ("Synapse DSC", "Synapse HD95"):
            assert value(3, other, metric) == value(1, method, metric)
        assert value(3, other, "ColonDB DSC") == value(2, method, "ColonDB DSC")
    for metric in ("Synapse DSC", "Synapse HD95"):
        both = value(3, "U-Net + XAttnRes (both)", metric)
        assert value(4, "Full (Enc. + Dec.)", metric) == value(5, "Zero-init", metric) == both
        assert value(4, "None", metric) == value(3, "U-Net (no skip)", metric)
