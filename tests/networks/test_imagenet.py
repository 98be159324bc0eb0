"""ImageNet weights from files of every published form; a file that does not fit is an error and changes nothing."""

from contextlib import nullcontext

import pytest
import timm
import torch
from safetensors.torch import save_file
from support import csap
from support.emcad import small_encoder

from nnunet_xattnres.networks import imagenet
from nnunet_xattnres.networks.imagenet import NotAvailableError, load_imagenet, load_mscan
from nnunet_xattnres.networks.mscan import MSCAN


@pytest.fixture(scope="module", params=["small", pytest.param("full size", marks=pytest.mark.slow)], autouse=True)
def size(request):
    """The encoder is a small pvt_v2_b2, or the original."""
    with small_encoder() if request.param == "small" else nullcontext():
        yield


@pytest.fixture(scope="module")
def published(size):
    """Weights with a classification head, as published."""
    torch.manual_seed(1)
    return timm.create_model("pvt_v2_b2").state_dict()


@pytest.fixture
def encoder(size):
    torch.manual_seed(0)
    return timm.create_model("pvt_v2_b2", num_classes=0)


def assert_loaded(encoder, published):
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, published[name]), name


@pytest.mark.parametrize("form", ["plain.pth", "wrapped.pth", "plain.safetensors"])
def test_files_of_timm(encoder, published, tmp_path, form):
    file = tmp_path / form
    if form.endswith(".safetensors"):
        save_file(published, file)
    else:
        torch.save({"state_dict": published} if form.startswith("wrapped") else published, file)
    assert load_imagenet(encoder, file) == str(file)
    assert_loaded(encoder, published)


def test_file_of_the_authors(encoder, published, tmp_path):
    """The authors of PVTv2 name the modules patch_embed1..4, block1..4 and norm1..4."""
    renamed = {}
    for name, tensor in published.items():
        name = name.replace("mlp.dwconv", "mlp.dwconv.dwconv")
        for s in range(4):
            name = name.replace(f"stages.{s}.blocks", f"block{s + 1}").replace(f"stages.{s}.norm", f"norm{s + 1}")
            name = name.replace(f"stages.{s}.downsample", f"patch_embed{s + 1}")
        renamed[name.replace("patch_embed.", "patch_embed1.")] = tensor
    torch.save(renamed, tmp_path / "pvt_v2_b2.pth")
    load_imagenet(encoder, tmp_path / "pvt_v2_b2.pth")
    assert_loaded(encoder, published)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, r"not exist"),
        (b"hello", r"\(\w+\)"),
        ("pvt_v2_b0", r"\d+ of {number} tensors .*'\w+\..*'"),
        ("extra", r"\b1 of {number} tensors .*'new'"),
    ],
)
def test_other_files(encoder, published, tmp_path, content, reason):
    """The error is one line that names the file, the reason or the first wrong tensor, and the weights to use."""
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "extra":
        torch.save(published | {"new": torch.zeros(1)}, file)
    elif content:
        torch.save(timm.create_model(content).state_dict(), file)
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    expected = rf"weights\.pth.*{reason.format(number=len(before))}.*pvt_v2_b2"
    with pytest.raises(ValueError, match=expected) as error:
        load_imagenet(encoder, file)
    assert "\n" not in str(error.value)
    assert_loaded(encoder, before)


def test_download_by_timm(encoder, published, monkeypatch):
    original = timm.create_model

    def create_model(name, pretrained, num_classes):
        assert (name, pretrained) == ("pvt_v2_b2.in1k", True)
        model = original(name, num_classes=num_classes)
        model.load_state_dict({n: t for n, t in published.items() if not n.startswith("head")})
        return model

    monkeypatch.setattr(imagenet.timm, "create_model", create_model)
    assert load_imagenet(encoder) == "timm's pvt_v2_b2.in1k"
    assert_loaded(encoder, published)


@pytest.mark.parametrize("error", [OSError("no route to host\nand more"), TimeoutError()], ids=repr)
def test_a_download_that_fails(encoder, monkeypatch, error):
    def create_model(name, **options):
        raise error

    monkeypatch.setattr(imagenet.timm, "create_model", create_model)
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    with pytest.raises(NotAvailableError, match=f"^{type(error).__name__}: ") as raised:
        load_imagenet(encoder)
    assert "\n" not in str(raised.value)
    assert_loaded(encoder, before)


def make_mscan(channels):
    torch.manual_seed(0)
    with csap.small_encoder():
        return MSCAN(channels)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_mscan(tmp_path, channels):
    """The first kernel is summed, or repeated and scaled, for other numbers of channels; the rest is as published."""
    file = tmp_path / "mscan_t.pth"
    published = csap.published_weights(make_mscan(3))
    torch.save({"state_dict": published}, file)
    rgb, encoder = make_mscan(3), make_mscan(channels)
    assert load_mscan(rgb, file) == load_mscan(encoder, file) == str(file)
    for name, tensor in rgb.state_dict().items():
        assert torch.equal(tensor.flatten(), published[csap.published_name(name)].flatten()), name
    first = published["patch_embed1.proj.0.weight"]
    if channels == 1:
        expected = first.sum(1, keepdim=True)
    else:
        expected = torch.stack([first[:, c % 3] for c in range(channels)], 1) * 3 / channels
    torch.testing.assert_close(encoder.state_dict()["stages.0.embed.0.weight"], expected)
    assert all(
        torch.equal(t, rgb.state_dict()[n]) for n, t in encoder.state_dict().items() if n != "stages.0.embed.0.weight"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [("missing", r"not exist"), ("part of it", r"\d+ of \d+ tensors .*'stages\.\d.*'"),
     ("extra", r"\b1 of \d+ tensors .*'new'"), ("bytes", r"\(\w+\)")],
)  # fmt: skip
def test_other_files_for_mscan(tmp_path, content, reason):
    file, encoder = tmp_path / "weights.pth", make_mscan(2)
    if content == "bytes":
        file.write_bytes(b"hello")
    elif content != "missing":
        published = csap.published_weights(make_mscan(3))
        torch.save(
            published | {"new": torch.zeros(1)} if content == "extra" else dict(list(published.items())[9:]), file
        )
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=rf"weights\.pth.*{reason}.*MSCAN-T") as error:
        load_mscan(encoder, file)
    assert "\n" not in str(error.value)
    assert_loaded(encoder, before)
