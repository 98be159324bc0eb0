"""ImageNet weights from files of every published form; what does not fit is refused in one line and changes nothing."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from nnunet_xattnres.networks import imagenet
from nnunet_xattnres.networks.imagenet import NotAvailableError, load_imagenet


@pytest.fixture(scope="module")
def published():
    """With a classification head, as published."""
    torch.manual_seed(1)
    return timm.create_model("pvt_v2_b2").state_dict()


@pytest.fixture
def encoder():
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
    """Their names: patch_embed1..4, block1..4, norm1..4."""
    theirs = {}
    for name, tensor in published.items():
        name = name.replace("mlp.dwconv", "mlp.dwconv.dwconv")
        for s in range(4):
            name = name.replace(f"stages.{s}.blocks", f"block{s + 1}").replace(f"stages.{s}.norm", f"norm{s + 1}")
            name = name.replace(f"stages.{s}.downsample", f"patch_embed{s + 1}")
        theirs[name.replace("patch_embed.", "patch_embed1.")] = tensor
    torch.save(theirs, tmp_path / "pvt_v2_b2.pth")
    load_imagenet(encoder, tmp_path / "pvt_v2_b2.pth")
    assert_loaded(encoder, published)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"there is no such file"),
        (b"hello", r"cannot be read \(\w+\)"),
        ("pvt_v2_b1", r"do not fit: \d+ of 332 tensors are missing, unknown or of another shape, the first 'stages"),
        ("extra", r"do not fit: 1 of 332 tensors .* the first 'new'"),
    ],
)
def test_other_files(encoder, published, tmp_path, content, message):
    file = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "extra":
        torch.save(published | {"new": torch.zeros(1)}, file)
    elif content:
        torch.save(timm.create_model(content).state_dict(), file)
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    expected = f"encoder weights .*weights.pth:? {message}.*ImageNet weights of pvt_v2_b2"
    with pytest.raises(ValueError, match=expected) as error:
        load_imagenet(encoder, file)
    assert "\n" not in str(error.value)
    assert_loaded(encoder, before)


def test_through_timm(encoder, published, monkeypatch):
    def create_model(name, pretrained, num_classes, original=timm.create_model):
        assert (name, pretrained) == ("pvt_v2_b2.in1k", True)
        model = original(name, num_classes=num_classes)
        model.load_state_dict({n: t for n, t in published.items() if not n.startswith("head")})
        return model

    monkeypatch.setattr(imagenet.timm, "create_model", create_model)
    assert load_imagenet(encoder) == "timm's pvt_v2_b2.in1k"
    assert_loaded(encoder, published)


@pytest.mark.parametrize("error", [OSError("no route to host\nand more"), TimeoutError()], ids=repr)
def test_without_a_network(encoder, monkeypatch, error):
    def create_model(name, **options):
        raise error

    monkeypatch.setattr(imagenet.timm, "create_model", create_model)
    before = {n: t.clone() for n, t in encoder.state_dict().items()}
    with pytest.raises(NotAvailableError, match=f"^{type(error).__name__}: ") as raised:
        load_imagenet(encoder)
    assert "\n" not in str(raised.value)
    assert_loaded(encoder, before)
