"""What MLflow loads of a registered model: image files' bytes in, packed codes out.

Models from code: MLflow runs this file, nothing is unpickled. torch is imported when a model is
loaded, not when it is packaged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext


class ImageEncoder(PythonModel):
    """A registered model: `mlflow.pyfunc.load_model(...).predict(frame)`.

    The device is `cpu` unless the model is loaded with `model_config={"device": "cuda"}`.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Read the model's files, verified."""
        from isdh.artifacts import read_json
        from isdh.encoder import Encoder

        folder = Path(context.artifacts["model"])
        backbone = context.artifacts.get("backbone")
        device = (context.model_config or {}).get("device", "cpu")
        self.bits = int(read_json(folder / "model.json")["bits"])
        self.encoder = Encoder.load(folder, Path(backbone) if backbone else None, device)

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Codes of images.

        Args:
            context: unused.
            model_input: column `image`, the bytes of one image file per row.
            params: unused.

        Returns:
            Columns `code`, the packed code in hex, little bit order, and `bits`, as 0 and 1.

        Raises:
            MlflowException: bytes that are no image. Of others MLflow's server tells no reason.
        """
        from isdh.codes import unpack
        from isdh.errors import InputError

        try:
            codes = self.encoder.encode(list(model_input["image"]))
        except InputError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        bits = unpack(codes, self.bits)
        return pd.DataFrame(
            {
                "code": [code.tobytes().hex() for code in codes],
                "bits": ["".join(map(str, row)) for row in bits],
            }
        )


set_model(ImageEncoder())
