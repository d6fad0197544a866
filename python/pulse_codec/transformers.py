"""Patches from a `transformers.Trainer`, and into a model of transformers.

>>> import torch, pulse_codec as pulse
>>> from transformers import AutoModelForCausalLM, Qwen2Config
>>> from pulse_codec.transformers import checkpoint
>>> config = Qwen2Config(vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
...                      num_attention_heads=2, num_key_value_heads=1)
>>> trainer = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
>>> server = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
>>> _ = server.load_state_dict(trainer.state_dict())
>>> shadow = pulse.Shadow(checkpoint(trainer))
>>> _ = trainer.lm_head.weight.data[0].fill_(1)
>>> patch = shadow.diff(checkpoint(trainer), step=1)
>>> _ = pulse.apply(checkpoint(server), patch)
>>> torch.equal(server.lm_head.weight, trainer.lm_head.weight)
True
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from pulse_codec.host import HostCopy
from pulse_codec.installed import check_version
from pulse_codec.plan import PlanError, views
from pulse_codec.types import Publishes

__all__ = ["PublishCallback", "SUPPORTED", "checkpoint"]

#: Versions of transformers that this is written for: from the first to before the last.
SUPPORTED = ("5.0", "6.0")


check_version("transformers", SUPPORTED, "transformers")

from transformers import (  # noqa: E402
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.core_model_loading import revert_weight_conversion  # noqa: E402
from transformers.modeling_utils import remove_tied_weights_from_state_dict  # noqa: E402


def checkpoint(model: PreTrainedModel, *, copy: bool = False) -> dict[str, torch.Tensor]:
    """The model's weights under the names and in the shapes that `save_pretrained` gives them, which engines load.

    transformers keeps some models in another form (it fuses the experts of a layer into one tensor). The tensors are
    views of the model's memory: publishing them copies nothing, and a patch applied to them changes the model. Where a
    tensor is no part of a parameter this is a `PlanError`, unless ``copy`` allows copies: to publish, not to apply to.
    """

    def export(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(revert_weight_conversion(model, state))

    own = _saved(model)
    found = views(model, lambda state: export({name: state[name] for name in own}))
    computed = [name for name, tensor in found.items() if tensor is None]
    if computed and not copy:
        raise PlanError(
            f"{type(model).__name__} keeps {computed[0]!r} in a form that is no part of one of its parameters",
            tensor=computed[0],
        )
    values = export(own) if computed else {}
    return {name: values[name].detach().contiguous() if tensor is None else tensor for name, tensor in found.items()}


def _saved(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What of the model's state is saved: without what it makes itself, and of tied tensors the one that counts."""
    ignored = model._keys_to_ignore_on_save or ()
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in ignored}
    return dict(remove_tied_weights_from_state_dict(state, model))


class PublishCallback(TrainerCallback):
    """Publishes a `Trainer`'s weights when training begins and then every so many steps, or with every save.

    ``publisher`` is anything with ``publish(weights, step=)``, such as `pulse_codec.Publisher`. ``dtype`` is what
    floating-point weights are published in. Of several processes the first publishes; each must hold the whole model
    (DDP): a sharded one (FSDP, DeepSpeed ZeRO-3) is refused.
    """

    def __init__(
        self, publisher: Publishes, *, every: int | Literal["save"] = 1, dtype: torch.dtype | None = torch.bfloat16
    ) -> None:
        if every != "save" and (not isinstance(every, int) or every < 1):
            raise ValueError("every is a number of steps, or 'save'")
        self._publisher = publisher
        self._every = every
        self._host = HostCopy(dtype=dtype)
        self._published: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._publish(state, kwargs["model"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._every != "save" and state.global_step % self._every == 0:
            self._publish(state, kwargs["model"])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._every == "save":
            self._publish(state, kwargs["model"])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._publish(state, kwargs["model"])

    def _publish(self, state: TrainerState, model: torch.nn.Module) -> None:
        if not state.is_world_process_zero or self._published == state.global_step:
            return
        while not isinstance(model, PreTrainedModel):
            inner = getattr(model, "module", None)
            if not isinstance(inner, torch.nn.Module):
                raise TypeError(f"{type(model).__name__} is no model of transformers")
            model = inner
        for name, parameter in model.named_parameters():
            if type(parameter.data) is not torch.Tensor or getattr(parameter, "ds_id", None) is not None:
                raise TypeError(
                    f"parameter {name!r} is sharded over processes: encode each rank's part with pulse.diff(part_of=)"
                    " and join the parts"
                )
        weights = self._host.take(checkpoint(model, copy=True).items())
        self._publisher.publish(weights, step=state.global_step)
        self._published = state.global_step
