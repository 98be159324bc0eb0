"""The training lengths that nnU-Net offers for its own trainer, for any trainer of this package."""

from functools import cache

EPOCHS = (1, 5, 10, 20, 50, 100, 250, 500, 750, 2000, 4000, 8000)
"""As in nnunetv2.training.nnUNetTrainer.variants.training_length, so that every length has its stock rival."""


def suffix(epochs: int) -> str:
    """How nnU-Net's class names say a length: `1epoch`, `5epochs`."""
    return "1epoch" if epochs == 1 else f"{epochs}epochs"


@cache  # so that every look-up finds the same classes
def with_lengths(trainer: type) -> dict[str, type]:
    """The trainer and one subclass per length, by class name: `<trainer>_1epoch`, `<trainer>_5epochs`, ..."""
    classes = {trainer.__name__: trainer}
    for epochs in EPOCHS:
        name = f"{trainer.__name__}_{suffix(epochs)}"
        namespace = {
            "epochs": epochs,
            "__module__": trainer.__module__,
            "__doc__": f"{trainer.__name__}, {epochs} epochs.",
        }
        classes[name] = type(name, (trainer,), namespace)
    return classes
