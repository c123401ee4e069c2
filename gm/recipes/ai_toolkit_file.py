"""A job of ai-toolkit (YAML or JSON) -> its settings by flat names, those of its first process: network.linear, datasets.0.folder_path."""

import json
from typing import Any, Mapping

from gm.errors import UserError, shown

_MAPPINGS = ("network", "save", "train", "model", "sample", "logging", "first_sample")
_DEEPER = ("network.network_kwargs", "train.optimizer_params", "train.lr_scheduler_params", "train.ema_config")
_LISTS = ("datasets", "sample.samples")


def is_ai_toolkit(value: Any) -> bool:
    """Whether it is a job."""
    return isinstance(value, Mapping) and "job" in value and isinstance(value.get("config"), Mapping)


def expanded(job: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by flat names; `[name]` is replaced by the job's name. UserError for a job without a process."""
    name = str(job["config"].get("name") or "")
    job = json.loads(json.dumps(job, default=str).replace("[name]", json.dumps(name)[1:-1]))
    config = job["config"]
    processes = config.get("process")
    if not isinstance(processes, list) or not processes or not isinstance(processes[0], Mapping):
        raise UserError(f"the job {shown(name)} has no list of processes: its config must have process, with what is trained")
    flat: dict[str, Any] = {"job": job["job"]}
    flat |= {f"config.{key}": value for key, value in config.items() if key != "process"}
    if len(processes) > 1:
        flat["config.process"] = f"{len(processes)} processes"
    for key, value in processes[0].items():
        _put(flat, str(key), value)
    flat |= {str(key): value for key, value in job.items() if key not in ("job", "config")}
    return flat


def _put(flat: dict[str, Any], name: str, value: Any) -> None:
    if isinstance(value, Mapping) and value and (name in _MAPPINGS or name in _DEEPER):
        for key, inner in value.items():
            _put(flat, f"{name}.{key}", inner)
    elif name in _LISTS and isinstance(value, list):
        if not all(isinstance(one, Mapping) for one in value):
            raise UserError(f"{name} of the job is {shown(value)}: it must be a list of mappings")
        for number, one in enumerate(value):
            flat |= {f"{name}.{number}.{key}": inner for key, inner in one.items()}
    else:
        flat[name] = value
