"""Models of scikit-learn and XGBoost, made as their users make them. Importing this takes seconds and memory."""

import json
import pickle

import skops.io
import xgboost
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from e2e.support.store import Models

X, LABELS = load_iris(return_X_y=True)
ROWS = X[[0, 60, 120]]
LINE = LogisticRegression(max_iter=1000).fit(X, LABELS)
TREES = xgboost.train({"objective": "multi:softprob", "num_class": 3, "seed": 1}, xgboost.DMatrix(X, LABELS), 4)
BESIDE = {
    "format": "xgboost",
    "inputs": [{"name": "flowers", "datatype": "FP32", "shape": [-1, 4]}],
    "example": {"flowers": ROWS.tolist()},
}


def models() -> Models:
    return {
        "line": {"model.skops": skops.io.dumps(LINE)},
        "trees": {"model.ubj": bytes(TREES.save_raw("ubj")), "slipway.yaml": json.dumps(BESIDE).encode()},
        "pickle": {"model.pkl": pickle.dumps(LINE)},
    }


def expected() -> dict[str, list[float]]:
    """What they answer to ROWS, where they were made."""
    trees = TREES.predict(xgboost.DMatrix(ROWS)).reshape(-1)
    return {"line": LINE.predict(ROWS).tolist(), "trees": trees.tolist()}
