"""Specs of services and runtimes that are wrong, careless or hostile, and words that their refusals must have."""
# ruff: noqa: E501 - the table is one line a case

from copy import deepcopy
from typing import Any

import pytest

from e2e.support.api import Manifest
from e2e.support.manifests import GROUP, service, variant

MODEL = "spec.predictor.model"
URI = "must be s3://, gs://, az://, https://, hf://, oci://, sample://NAME, pvc://CLAIM/PATH or file:///PATH"
QUANTITY = "must be a quantity such as 2, 500m or 8Gi"
DURATION = "must be a duration such as 500ms, 10s or 1m30s"
SHARE = "must be a share such as 5% or 33.33%"
OPTIONS, MATCH = f"{MODEL}.options", "spec.traffic.variants[0].match[0]"
METRIC = "spec.rollout.analysis.metrics[0]"
SCHEDULE = {"name": "day", "start": "0 8 * * *", "minReplicas": 1}
MEGABYTE = "x" * (1 << 20)


def changed(*changes: tuple[str, Any], name: str = "wrong") -> Manifest:
    """A good service with the fields at dotted paths set to something else."""
    return put(service(name), *changes)


def put(manifest: Manifest, *changes: tuple[str, Any]) -> Manifest:
    made = deepcopy(manifest)
    for path, value in changes:
        *way, last = path.split(".")
        place = made
        for key in way:
            place = place.setdefault(key, {})
        place[last] = value
    return made


def model(field: str, value: Any) -> Manifest:
    return changed((f"{MODEL}.{field}", value))


def stored(field: str, value: Any, uri: str = "s3://models/m") -> Manifest:
    return changed((f"{MODEL}.storageUri", uri), (f"{MODEL}.storage.{field}".rstrip("."), value))


def predictor(field: str, value: Any) -> Manifest:
    return changed((f"spec.predictor.{field}", value))


def option(field: str, value: Any) -> Manifest:
    return changed((f"{OPTIONS}.{field}", value))


def scaling(field: str, value: Any) -> Manifest:
    return changed((f"spec.scaling.{field}".rstrip("."), value))


def variants(*each: tuple[str, dict[str, Any]]) -> Manifest:
    return changed(("spec.traffic.variants", [variant(name) | more for name, more in each]))


def match(*several: dict[str, Any], **one: Any) -> Manifest:
    return variants(("b", {"match": [*several] or [one]}))


def traffic(field: str, value: Any) -> Manifest:
    return changed((f"spec.traffic.{field}", value))


def access(field: str, value: Any) -> Manifest:
    return changed((f"spec.access.{field}".rstrip("."), value))


def rollout(field: str, value: Any) -> Manifest:
    return changed((f"spec.rollout.{field}", value))


def metric(**fields: Any) -> Manifest:
    return rollout("analysis", {"metrics": [{"name": "drift", "promql": "up"} | fields]})


def runtime(*changes: tuple[str, Any], kind: str = "ServingRuntime") -> Manifest:
    made: Manifest = {
        "apiVersion": GROUP,
        "kind": kind,
        "metadata": {"name": "wrong"},
        "spec": {"supportedModelFormats": [{"name": "onnx"}], "container": {"image": "server:1"}},
    }
    return put(made, *((f"spec.{path}", value) for path, value in changes))


def nested(depth: int) -> Manifest:
    inner: dict[str, Any] = {}
    for _ in range(depth):
        inner = {"predictor": inner}
    return changed(("spec.predictor", inner))


def refused(id_: str, manifest: Manifest, *words: str) -> Any:
    return pytest.param(manifest, words, id=id_)


REFUSED = [
    # Addresses of models
    refused("no-scheme", model("storageUri", "model.pt"), f"{MODEL}.storageUri", URI, 'not "model.pt"'),
    refused("empty-uri", model("storageUri", ""), f"{MODEL}.storageUri", URI),
    refused("climbs", model("storageUri", "pvc://models/../../etc/shadow"), f"{MODEL}.storageUri", URI, '".."'),
    refused("climbs-at-the-end", model("storageUri", "file:///opt/slipway/.."), f"{MODEL}.storageUri", URI),
    refused("climbs-encoded", model("storageUri", "pvc://models/%2e%2e/secret"), f"{MODEL}.storageUri", URI),
    refused("foreign-scheme", model("storageUri", "http://169.254.169.254/latest"), f"{MODEL}.storageUri", URI),
    refused("query-in-uri", model("storageUri", "sample://hello?x=1"), f"{MODEL}.storageUri", URI),
    refused("new-line-in-uri", model("storageUri", "sample://hello\n--evil"), f"{MODEL}.storageUri", URI),
    refused("null-byte-in-uri", model("storageUri", "file:///opt\0/etc"), f"{MODEL}.storageUri", URI),
    refused("flag-as-uri", model("storageUri", "--help"), f"{MODEL}.storageUri", URI),
    refused("unicode-uri", model("storageUri", "sample://hellö"), f"{MODEL}.storageUri", URI),
    refused("megabyte-uri", model("storageUri", "sample://" + MEGABYTE), f"{MODEL}.storageUri", "1024"),
    # Types and absences
    refused("user-in-uri", model("storageUri", "https://user:pw@host/m.pt"), f"{MODEL}.storageUri", URI),
    refused("climbs-in-a-bucket", model("storageUri", "s3://models/../../x"), f"{MODEL}.storageUri", URI),
    refused("backslash-in-uri", model("storageUri", "https://h\\@169.254.169.254/x"), f"{MODEL}.storageUri", URI),
    refused("endpoint-with-a-password", stored("endpoint", "http://user:pw@minio"), f"{MODEL}.storage.endpoint", "should match"),
    refused("endpoint-of-a-file", stored("endpoint", "file:///etc"), f"{MODEL}.storage.endpoint", "should match"),
    refused("digest-of-nothing", stored("sha256", "x"), f"{MODEL}.storage.sha256", "should match"),
    refused("secret-of-another-namespace", stored("secretName", "other/secret"), f"{MODEL}.storage.secretName", "should match"),
    refused("storage-of-a-sample", model("storage", {"anonymous": True}), MODEL, "storage goes with s3://"),
    refused("region-of-no-bucket", stored("region", "eu", "hf://org/name"), MODEL, "storage.region and storage.pathStyle go with s3://"),
    refused("number-as-uri", model("storageUri", 7), f"{MODEL}.storageUri", "string"),
    refused("list-as-spec", changed(("spec", ["predictor"])), "spec", "object"),
    refused("text-as-replicas", changed(("spec.scaling.minReplicas", "many")), "spec.scaling.minReplicas", "integer"),
    refused("fraction-of-a-replica", changed(("spec.scaling.minReplicas", 1.5)), "spec.scaling.minReplicas", "integer"),
    refused("no-spec", {"apiVersion": "slipway.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": "wrong"}}, "spec", "Required"),
    refused("no-model", changed(("spec.predictor", {"timeout": "10s"})), MODEL, "Required"),
    refused("null-format", model("modelFormat", None), f"{MODEL}.modelFormat", "Required"),
    refused("text-as-flag", model("env", [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": "yes"}}}]), f"{MODEL}.env[0].valueFrom.secretKeyRef.optional", "boolean"),
    # Numbers
    refused("minus-replicas", changed(("spec.scaling.minReplicas", -3)), "spec.scaling.minReplicas", "greater than or equal to 0"),
    refused("too-many-replicas", changed(("spec.scaling.minReplicas", 1001)), "spec.scaling.minReplicas", "less than or equal to 1000"),
    refused("most-below-least", changed(("spec.scaling", {"minReplicas": 3, "maxReplicas": 2})), "spec.scaling", "minReplicas is more than maxReplicas"),
    refused("no-objective", changed(("spec.scaling.objective", {})), "spec.scaling.objective", "needs one of latency"),
    refused("instant-objective", changed(("spec.scaling.objective", {"latency": {"p99": "0s"}})), "spec.scaling.objective.latency", "must be longer than 0s"),
    refused("cron-in-words", changed(("spec.scaling.schedules", [{"name": "a", "start": "every day", "minReplicas": 1}])), "spec.scaling.schedules[0].start", "must be five fields of cron"),
    refused("half-a-replica", changed(("spec.scaling.behavior", {"up": {"replicas": "0.5"}})), "spec.scaling.behavior.up.replicas", "must be a number of replicas or a share"),
    refused("huge-number", predictor("containerConcurrency", 2**62), "spec.predictor.containerConcurrency", "less than or equal to 10000"),
    refused("beyond-64-bits", predictor("containerConcurrency", 10**30), "spec.predictor.containerConcurrency", "integer"),
    refused("minus-concurrency", predictor("containerConcurrency", -1), "spec.predictor.containerConcurrency", "greater than or equal to 0"),
    # Durations and quantities
    refused("duration-in-words", predictor("timeout", "10 seconds"), "spec.predictor.timeout", DURATION, "10 seconds"),
    refused("no-duration", predictor("timeout", "0s"), "spec.predictor.timeout", "longer than 0s and at most 1h"),
    refused("long-duration", predictor("timeout", "61m"), "spec.predictor.timeout", "longer than 0s and at most 1h"),
    refused("minus-duration", predictor("timeout", "-5s"), "spec.predictor.timeout", DURATION),
    refused("duration-that-overflows", predictor("timeout", "99999999999999999999999h"), "spec.predictor.timeout"),
    refused("memory-in-words", model("resources", {"limits": {"memory": "8 GB"}}), f"{MODEL}.resources.limits[memory]", QUANTITY),
    refused("minus-memory", model("resources", {"limits": {"memory": "-1Gi"}}), f"{MODEL}.resources.limits[memory]", QUANTITY),
    refused("not-a-number-of-cpus", model("resources", {"limits": {"cpu": "NaN"}}), f"{MODEL}.resources.limits[cpu]", QUANTITY),
    refused("unknown-resource", model("resources", {"limits": {"ram": "1Gi"}}), f"{MODEL}.resources.limits", "resource names are cpu, memory, ephemeral-storage or DOMAIN/NAME"),
    refused("half-a-gpu", model("resources", {"limits": {"nvidia.com/gpu": "500m"}}), f"{MODEL}.resources", "counted in whole numbers"),
    refused("gpu-asked-for-only", model("resources", {"requests": {"nvidia.com/gpu": 1}}), f"{MODEL}.resources", "set it in limits"),
    refused("more-asked-than-allowed", model("resources", {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}), f"{MODEL}.resources", "requests may not be larger than limits"),
    # Names
    refused("upper-case-name", changed(name="Wrong"), "metadata.name", "lower"),
    refused("long-name", changed(name="a" * 49), "at most 48"),
    refused("name-that-starts-with-a-digit", changed(name="7th"), "metadata.name", "starting with a letter"),
    refused("dotted-name", changed(name="a.b"), "metadata.name", "letters, digits and dashes"),
    refused("name-that-climbs", changed(name="../etc"), "invalid resource name", "may not contain '/'"),
    refused("unicode-name", changed(name="modèle"), "metadata.name"),
    refused("empty-name", changed(name=""), "name"),
    refused("format-with-spaces", model("modelFormat", {"name": "torch script"}), f"{MODEL}.modelFormat.name", "should match"),
    refused("format-with-markup", model("modelFormat", {"name": "<script>"}), f"{MODEL}.modelFormat.name", "should match"),
    refused("version-that-injects-an-image", model("runtimeVersion", "1@sha256:0"), f"{MODEL}.runtimeVersion", "should match"),
    refused("runtime-with-a-slash", model("runtime", "../other/runtime"), f"{MODEL}.runtime", "should match"),
    # Environment and arguments
    refused("same-variable-twice", model("env", [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]), f"{MODEL}.env[1]", "Duplicate value"),
    refused("variable-of-the-operator", model("env", [{"name": "SLIPWAY_MODEL_PATH", "value": "/etc"}]), f"{MODEL}.env[0].name", "names that start with SLIPWAY_ are reserved"),
    refused("variable-with-an-equals-sign", model("env", [{"name": "A=B", "value": "1"}]), f"{MODEL}.env[0].name", "must be letters, digits and _"),
    refused("empty-variable", model("env", [{"name": "", "value": "1"}]), f"{MODEL}.env[0].name"),
    refused("two-sources", model("env", [{"name": "A", "value": "1", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]), f"{MODEL}.env[0]", "give value or valueFrom, not both"),
    refused("no-source", model("env", [{"name": "A", "valueFrom": {}}]), f"{MODEL}.env[0].valueFrom", "give one of secretKeyRef and configMapKeyRef"),
    refused("key-that-climbs", model("env", [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "../k"}}}]), f"{MODEL}.env[0].valueFrom.secretKeyRef.key", "should match"),
    refused("number-as-value", model("env", [{"name": "A", "value": 1}]), f"{MODEL}.env[0].value", "string"),
    refused("megabyte-value", model("env", [{"name": "A", "value": MEGABYTE}]), f"{MODEL}.env[0].value", "8192"),
    refused("too-many-variables", model("env", [{"name": f"A{i}", "value": ""} for i in range(65)]), f"{MODEL}.env", "at most 64"),
    refused("too-many-arguments", model("args", ["--x"] * 65), f"{MODEL}.args", "at most 64"),
    refused("long-argument", model("args", ["x" * 2049]), f"{MODEL}.args[0]", "2048"),
    refused("number-as-argument", model("args", [1]), f"{MODEL}.args[0]", "string"),
    # Placement
    refused("label-injection", predictor("nodeSelector", {"a": 'b", "c": "d'}), "spec.predictor.nodeSelector.a", "should match"),
    refused("label-with-new-line", predictor("nodeSelector", {"a\nb": "c"}), "spec.predictor.nodeSelector", "keys are label names"),
    refused("long-label", predictor("nodeSelector", {"a": "b" * 64}), "spec.predictor.nodeSelector.a", "63"),
    refused("toleration-of-everything-by-value", predictor("tolerations", [{"operator": "Equal", "value": "x"}]), "spec.predictor.tolerations[0]", "needs operator: Exists"),
    refused("unknown-effect", predictor("tolerations", [{"key": "a", "effect": "Never"}]), "spec.predictor.tolerations[0].effect", "NoSchedule"),
    refused("existing-with-value", predictor("tolerations", [{"key": "a", "operator": "Exists", "value": "x"}]), "spec.predictor.tolerations[0]", "takes no value"),
    refused("other-strategy", changed(("spec.rollout", {"strategy": "Recreate"})), "spec.rollout.strategy", '"Canary", "BlueGreen", "None"'),
    refused("step-of-two-kinds", changed(("spec.rollout", {"steps": [{"weight": "5%", "mirror": "5%"}]})), "spec.rollout.steps[0]", "give one of weight and mirror"),
    refused("step-of-no-share", changed(("spec.rollout", {"steps": [{"weight": "5 %"}]})), "spec.rollout.steps[0].weight", "must be a share such as 5% or 33.33%"),
    # What there is not
    refused("pod-spec", predictor("podSpec", {"hostNetwork": True}), 'unknown field "spec.predictor.podSpec"'),
    refused("security-context", model("securityContext", {"privileged": True}), f'unknown field "{MODEL}.securityContext"'),
    refused("service-account", predictor("serviceAccountName", "../admin"), "spec.predictor.serviceAccountName", "should match"),
    refused("host-path", model("volumeMounts", [{"mountPath": "/"}]), f'unknown field "{MODEL}.volumeMounts"'),
    refused("field-of-a-later-version", changed(("spec.explainer", {"type": "shap"})), 'unknown field "spec.explainer"'),
    refused("prototype", predictor("__proto__", {"x": 1}), 'unknown field "spec.predictor.__proto__"'),
    refused("deep-nesting", nested(500), "unknown field"),
    refused("other-updates-policy", predictor("runtimeUpdates", "Always"), "spec.predictor.runtimeUpdates", '"Pinned", "Follow"'),
    # Stores
    refused("bucket-in-capitals", model("storageUri", "s3://Models/m"), f"{MODEL}.storageUri", URI),
    refused("host-without-a-path", model("storageUri", "https://models.corp"), f"{MODEL}.storageUri", URI),
    refused("metadata-in-ipv6", model("storageUri", "https://[::ffff:169.254.169.254]/m.pt"), f"{MODEL}.storageUri", URI),
    refused("image-without-a-tag", model("storageUri", "oci://registry.corp/team/model"), f"{MODEL}.storageUri", URI),
    refused("secret-beside-anonymous", stored("", {"secretName": "s", "anonymous": True}), MODEL, "storage.anonymous sends no credentials: leave storage.secretName out"),
    refused("endpoint-of-a-web-server", stored("endpoint", "https://other.corp", "https://models.corp/m.pt"), MODEL, "storage.endpoint does not go with https://, which names its host"),
    refused("patterns-of-a-bucket", stored("allowPatterns", ["*.pt"]), MODEL, "storage.allowPatterns goes with hf://"),
    refused("empty-pattern", stored("allowPatterns", [""], "hf://org/name"), f"{MODEL}.storage.allowPatterns[0]", "at least 1"),
    refused("region-that-climbs", stored("region", "../eu"), f"{MODEL}.storage.region", "should match"),
    refused("size-in-words", stored("maxSize", "5 GB"), f"{MODEL}.storage.maxSize", QUANTITY, "5 GB"),
    refused("nothing-may-be-fetched", stored("maxSize", 0), f"{MODEL}.storage.maxSize", "must be at least one byte, such as 8Gi"),
    refused("certificates-are-not-checked", stored("insecureSkipVerify", True), f'unknown field "{MODEL}.storage.insecureSkipVerify"'),
    refused("credentials-in-the-spec", stored("accessKey", "AKIA"), f'unknown field "{MODEL}.storage.accessKey"'),
    # Options
    refused("batch-of-minus-one", option("maxBatchSize", -1), f"{OPTIONS}.maxBatchSize", "greater than or equal to 0"),
    refused("batches-of-nothing", option("preferredBatchSizes", [4, 0]), f"{OPTIONS}.preferredBatchSizes[1]", "greater than or equal to 1"),
    refused("queue-of-an-hour", option("maxQueueDelayMicroseconds", 3_600_000_000), f"{OPTIONS}.maxQueueDelayMicroseconds", "less than or equal to 10000000"),
    refused("other-device", option("device", "tpu"), f"{OPTIONS}.device", '"cpu", "gpu"'),
    refused("compiling-in-words", option("compile", "max-autotune"), f"{OPTIONS}.compile", "boolean"),
    refused("versions-that-climb", option("versions", "../1"), f"{OPTIONS}.versions", "should match"),
    refused("tensor-without-a-name", option("inputs", [{"datatype": "FP32", "shape": [1]}]), f"{OPTIONS}.inputs[0].name", "Required"),
    refused("tensor-of-another-type", option("inputs", [{"name": "x", "datatype": "TYPE_FP32", "shape": [1]}]), f"{OPTIONS}.inputs[0].datatype", "BOOL"),
    refused("shape-below-any", option("outputs", [{"name": "y", "datatype": "FP32", "shape": [-2]}]), f"{OPTIONS}.outputs[0].shape[0]", "greater than or equal to -1"),
    refused("allows-itself-code", option("allowCode", True), f'unknown field "{OPTIONS}.allowCode"'),
    refused("configuration-of-triton", option("parameters", {"EXECUTION_ENV_PATH": "/mnt"}), f'unknown field "{OPTIONS}.parameters"'),
    # Arguments, environment, resources
    refused("null-byte-in-an-argument", model("args", ["--a\0b"]), f"{MODEL}.args", "has a NUL byte"),
    refused("null-byte-in-a-variable", model("env", [{"name": "A", "value": "a\0b"}]), f"{MODEL}.env[0].value", "has a NUL byte"),
    refused("secret-name-that-climbs", model("env", [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "../other/s", "key": "k"}}}]), f"{MODEL}.env[0].valueFrom.secretKeyRef.name", "should match"),
    refused("variable-of-the-pod", model("env", [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]), "unknown field", "fieldRef"),
    refused("token-by-reference", model("env", [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "namespace": "kube-system"}}}]), "unknown field", "secretKeyRef.namespace"),
    refused("whole-secret", model("envFrom", [{"secretRef": {"name": "s"}}]), f'unknown field "{MODEL}.envFrom"'),
    refused("memory-in-thousandths", model("resources", {"limits": {"memory": "512m"}}), f"{MODEL}.resources.limits", "write 512Mi, not 512m"),
    refused("billionth-of-a-cpu", model("resources", {"limits": {"cpu": "1n"}}), f"{MODEL}.resources.limits[cpu]", QUANTITY, "1n"),
    refused("memory-beyond-64-bits", model("resources", {"limits": {"memory": "1e400"}}), f"{MODEL}.resources.limits[memory]", QUANTITY, "1e400"),
    refused("body-beyond-64-bits", access("maxBody", "8Ei"), "spec.access.maxBody", QUANTITY, "8Ei"),
    refused("match-of-two-lines", match(header="x-a", exact="a\r\nx-b: c"), f"{MATCH}.exact", "should match"),
    refused("huge-pages", model("resources", {"limits": {"hugepages-2Mi": "64Mi"}}), f"{MODEL}.resources.limits", "resource names are"),
    refused("resource-with-a-space", model("resources", {"limits": {"nvidia.com/ gpu": 1}}), f"{MODEL}.resources.limits", "or DOMAIN/NAME"),
    refused("claims", model("resources", {"claims": [{"name": "gpu"}]}), f'unknown field "{MODEL}.resources.claims"'),
    # Scaling
    refused("replicas-as-a-flag", scaling("maxReplicas", True), "spec.scaling.maxReplicas", "integer"),
    refused("no-load-at-all", scaling("objective", {"concurrency": 0}), "spec.scaling.objective.concurrency", "greater than 0"),
    refused("endless-rate", scaling("objective", {"requestsPerSecond": 1e300}), "spec.scaling.objective.requestsPerSecond", "less than or equal to 1e+06"),
    refused("other-percentile", scaling("objective", {"latency": {"p75": "1s"}}), 'unknown field "spec.scaling.objective.latency.p75"'),
    refused("query-without-a-target", scaling("objective", {"promql": {"query": "up"}}), "spec.scaling.objective.promql.target", "Required"),
    refused("empty-query", scaling("objective", {"promql": {"query": "", "target": 1}}), "spec.scaling.objective.promql.query", "at least 1"),
    refused("never-idle", scaling("idleAfter", "never"), "spec.scaling.idleAfter", "must be longer than 0s, such as 500ms"),
    refused("wakes-with-too-many", scaling("", {"maxReplicas": 2, "activationReplicas": 3}), "spec.scaling", "activationReplicas is more than maxReplicas"),
    refused("schedule-twice", scaling("schedules", [SCHEDULE, SCHEDULE]), "spec.scaling.schedules[1]", "Duplicate value"),
    refused("zone-that-climbs", scaling("schedules", [SCHEDULE | {"timeZone": "../../etc/passwd"}]), "spec.scaling.schedules[0].timeZone", "should match"),
    refused("pace-backwards", scaling("behavior", {"down": {"replicas": "-1"}}), "spec.scaling.behavior.down.replicas", "must be a number of replicas or a share"),
    refused("paused-as-a-flag", scaling("paused", True), "spec.scaling.paused", "string"),
    refused("hpa-metrics", scaling("metrics", [{"type": "Resource"}]), 'unknown field "spec.scaling.metrics"'),
    # Traffic
    refused("weights-over-all", variants(("b", {"weight": "60%"}), ("c", {"weight": "60%"})), "spec.traffic", "must sum to at most 100%"),
    refused("weight-over-all", variants(("b", {"weight": "101%"})), "spec.traffic.variants[0].weight", SHARE, "101%"),
    refused("weight-of-a-third", variants(("b", {"weight": "33.333333%"})), "spec.traffic.variants[0].weight", SHARE),
    refused("variant-in-capitals", variants(("B", {})), "spec.traffic.variants[0].name", "should match"),
    refused("variant-twice", variants(("b", {}), ("b", {})), "spec.traffic.variants[1]", "Duplicate value"),
    refused("nine-variants", variants(*((f"v{i}", {}) for i in range(9))), "spec.traffic.variants", "at most 8"),
    refused("variant-with-a-pod", variants(("b", {"podSpec": {}})), 'unknown field "spec.traffic.variants[0].podSpec"'),
    refused("variant-of-a-foreign-scheme", variants(("b", {"model": {"modelFormat": {"name": "onnx"}, "storageUri": "ftp://x/y"}})), "spec.traffic.variants[0].model.storageUri", URI),
    refused("variant-of-more-than-it-may", variants(("b", {"minReplicas": 3, "maxReplicas": 1})), "spec.traffic.variants[0]", "minReplicas is more than maxReplicas"),
    refused("match-of-nothing", match(exact="x"), MATCH, "give one of header, cookie and query"),
    refused("match-without-a-value", match(header="x-a"), MATCH, "give one of exact, prefix and regex"),
    refused("match-of-an-empty-value", match(header="x-a", exact=""), f"{MATCH}.exact", "at least 1"),
    refused("match-of-a-credential", match(header="authorization", prefix="Bearer "), f"{MATCH}.header", "must be a header that carries no other meaning"),
    refused("match-of-the-gateway", match(header="x-envoy-original-path", exact="/"), f"{MATCH}.header", "must be a header that carries no other meaning"),
    refused("match-of-a-pseudo-header", match(header=":path", exact="/"), f"{MATCH}.header", "must be a lower-case header name", ":path"),
    refused("header-that-splits", match(header="x-a\r\nx-b", exact="a"), f"{MATCH}.header", "must be a lower-case header name"),
    refused("cookie-that-splits", match(cookie="a; b=c", exact="a"), f"{MATCH}.cookie", "should match"),
    refused("long-expression", match(query="a", regex="x" * 257), f"{MATCH}.regex", "256"),
    refused("sticky-by-two", traffic("stickiness", {"header": "x-a", "clientAddress": True}), "spec.traffic.stickiness", "give one of header, cookie and clientAddress"),
    refused("sticky-by-no-address", traffic("stickiness", {"clientAddress": False}), "spec.traffic.stickiness.clientAddress", "must be true, or left away"),
    refused("cookie-for-a-day", traffic("stickiness", {"cookie": {"maxAge": "1d"}}), "spec.traffic.stickiness.cookie.maxAge", DURATION),
    refused("mirror-to-nobody", traffic("mirror", {"variant": "b", "percent": "5%"}), "spec.traffic", "mirror.variant must be one of variants"),
    refused("mirror-twice-over", traffic("mirror", {"variant": "b", "percent": "200%"}), "spec.traffic.mirror.percent", SHARE),
    refused("mirror-to-an-address", traffic("mirror", {"url": "http://169.254.169.254", "percent": 5}), 'unknown field "spec.traffic.mirror.url"'),
    refused("experiment-alone", traffic("experiment", {}), "spec.traffic", "an experiment needs variants"),
    refused("experiment-for-nothing", traffic("experiment", {"objective": "revenue"}), "spec.traffic.experiment", "objective must be errorRate, p50, p95 or the name of one of metrics"),
    refused("experiment-of-a-taken-name", traffic("experiment", {"metrics": [{"name": "p50", "promql": "up"}]}), "spec.traffic.experiment", "p50 and p95 are no names for metrics of your own"),
    # Access
    refused("keys-of-nobody", access("apiKeys", {"clients": []}), "spec.access.apiKeys.clients", "at least 1"),
    refused("client-that-climbs", access("apiKeys", {"clients": ["../web"]}), "spec.access.apiKeys.clients[0]", "should match"),
    refused("key-in-the-spec", access("apiKeys", {"clients": ["web"], "keys": ["hunter2"]}), 'unknown field "spec.access.apiKeys.keys"'),
    refused("keys-and-tokens", access("", {"apiKeys": {"clients": ["web"]}, "jwt": {"issuer": "i", "jwks": "{}"}}), "spec.access", "give apiKeys or jwt, not both"),
    refused("issuer-without-keys", access("jwt", {"issuer": "i"}), "spec.access.jwt", "give one of jwksUri and jwks"),
    refused("issuer-in-the-clear", access("jwt", {"issuer": "i", "jwksUri": "http://issuer.corp/keys"}), "spec.access.jwt.jwksUri", "should match", "https"),
    refused("rate-of-nothing", access("rateLimit", {"requestsPerSecond": 0}), "spec.access.rateLimit.requestsPerSecond", "greater than or equal to 1"),
    refused("rate-per-address", access("rateLimit", {"requestsPerSecond": 1, "per": "ip"}), "spec.access.rateLimit.per", '"client", "service"'),
    refused("no-body", access("maxBody", 0), "spec.access.maxBody", "must be at least one byte, such as 8Gi"),
    # Rollout
    refused("step-of-nothing", rollout("steps", [{"hold": "1m"}]), "spec.rollout.steps[0]", "give one of weight and mirror"),
    refused("hold-in-words", rollout("steps", [{"weight": 5, "hold": "soon"}]), "spec.rollout.steps[0].hold", DURATION, "soon"),
    refused("fewer-errors-than-stable", rollout("analysis", {"errorRate": {"maxRatioToStable": 0.5}}), "spec.rollout.analysis.errorRate.maxRatioToStable", "greater than or equal to 1"),
    refused("fraction-of-rejections", rollout("analysis", {"rejected": {"maxRatioToStable": 0.5}}), "spec.rollout.analysis.rejected.maxRatioToStable", "must be 0 or at least 1"),
    refused("latency-without-limit", rollout("analysis", {"latency": {"p99": {}}}), "spec.rollout.analysis.latency.p99", "give maxRatioToStable, max or both"),
    refused("metric-without-limit", metric(), METRIC, "give max, min or both"),
    refused("metric-without-a-query", metric(promql="", max=1), f"{METRIC}.promql", "at least 1"),
    refused("limit-in-words", metric(max="20%"), f"{METRIC}.max", "number"),
    refused("without-data-at-random", rollout("analysis", {"onNoData": "Ignore"}), "spec.rollout.analysis.onNoData", '"Hold", "Promote", "Abort"'),
    refused("hook", rollout("webhooks", [{"url": "http://169.254.169.254"}]), 'unknown field "spec.rollout.webhooks"'),
    # More of placement
    refused("seconds-of-no-eviction", predictor("tolerations", [{"key": "a", "operator": "Exists", "tolerationSeconds": 5}]), "spec.predictor.tolerations[0]", "tolerationSeconds goes with effect: NoExecute only"),
    refused("label-of-no-name", predictor("nodeSelector", {"/": "a"}), "spec.predictor.nodeSelector", "keys are label names"),
    refused("chosen-node", predictor("nodeName", "control-plane"), 'unknown field "spec.predictor.nodeName"'),
    refused("system-priority", predictor("priorityClassName", "system-node-critical"), 'unknown field "spec.predictor.priorityClassName"'),
    # Runtimes
    refused("runtime-on-the-host", runtime(("hostNetwork", True)), 'unknown field "spec.hostNetwork"'),
    refused("runtime-with-a-host-path", runtime(("volumes", [{"name": "h", "hostPath": {"path": "/"}}])), 'unknown field "spec.volumes"'),
    refused("privileged-runtime", runtime(("container.securityContext", {"privileged": True}), kind="ClusterServingRuntime"), 'unknown field "spec.container.securityContext"'),
    refused("runtime-with-a-sidecar", runtime(("containers", [{"name": "kserve-container", "image": "i"}])), 'unknown field "spec.containers"'),
    refused("runtime-with-an-account", runtime(("serviceAccountName", "cluster-admin"), kind="ClusterServingRuntime"), 'unknown field "spec.serviceAccountName"'),
    refused("runtime-with-a-hook", runtime(("container.lifecycle", {"postStart": {}})), 'unknown field "spec.container.lifecycle"'),
    refused("runtime-without-a-container", runtime(("container", None)), "spec.container", "Required"),
    refused("runtime-of-no-format", runtime(("supportedModelFormats", [])), "spec.supportedModelFormats", "at least 1"),
    refused("flag-as-image", runtime(("container.image", "--privileged")), "spec.container.image", "should match"),
    refused("command-as-text", runtime(("container.command", "sh -c id")), "spec.container.command", "array"),
    refused("privileged-port", runtime(("container.httpPort", 80)), "spec.container.httpPort", "greater than or equal to 1024"),
    refused("one-port-for-two", runtime(("container.grpcPort", 8080)), "spec.container", "httpPort, grpcPort and metricsPort must differ"),
    refused("probe-of-another-host", runtime(("container.readinessPath", "http://169.254.169.254/")), "spec.container.readinessPath", "should match"),
    refused("unknown-placeholder", runtime(("container.readinessPath", "/v2/{namespace}/ready")), "spec.container.readinessPath", r"\{name\}"),
    refused("placeholder-of-kserve", runtime(("container.args", ["--model={{.Name}}"])), "spec.container", "args: {{...}} is not replaced; write $(SLIPWAY_MODEL_NAME)"),
    refused("allows-no-flag", runtime(("container.allowedArgs", ["max-queue"])), "spec.container.allowedArgs[0]", "should match"),
    refused("allows-a-value", runtime(("container.allowedArgs", ["--allow-code=true"])), "spec.container.allowedArgs[0]", "should match"),
    refused("runtime-sets-what-is-ours", runtime(("container.env", [{"name": "SLIPWAY_MODEL_PATH", "value": "/"}])), "spec.container.env[0].name", "names that start with SLIPWAY_ are reserved"),
    refused("every-device", runtime(("accelerators", ["*"])), "spec.accelerators[0]", "should match"),
    refused("option-that-is-none", runtime(("options", [{"name": "allowCode"}])), "spec.options[0].name", "maxBatchSize"),
    refused("option-twice", runtime(("options", [{"name": "dtype"}, {"name": "dtype", "arg": "--dtype"}])), "spec.options[1]", "Duplicate value"),
    refused("memory-shared-backwards", runtime(("container.sharedMemory", "-1Gi")), "spec.container.sharedMemory", QUANTITY),
    refused("endless-connections", runtime(("container.idleTimeout", "2h")), "spec.container.idleTimeout", "longer than 0s and at most 1h"),
    refused("chosen-by-itself", runtime(("supportedModelFormats", [{"name": "onnx", "autoSelect": True}])), 'unknown field "spec.supportedModelFormats[0].autoSelect"'),
]  # fmt: skip


def told(reason: str, words: str, manifest: Manifest) -> Any:
    return pytest.param(manifest, reason, words, id=manifest["metadata"]["name"])


def group(name: str, how: str, value: str) -> Manifest:
    return variant(name) | {"match": [{"header": "x-group", how: value}]}


def later(name: str, *changes: tuple[str, Any]) -> Manifest:
    return changed(*changes, name=name)


TOLD = [
    told("NoSupportingRuntime", "no runtime supports model format 'coreml'", later("format-of-nobody", (f"{MODEL}.modelFormat.name", "coreml"))),
    told("RuntimeNotFound", f"{MODEL}.runtime: no runtime 'nope'; there are: slipway-pytorch, slipway-sklearn-xgboost, slipway-triton", later("runtime-of-nobody", (f"{MODEL}.runtime", "nope"))),
    told("RuntimeNotSuitable", f"{MODEL}.runtime: ClusterServingRuntime/slipway-triton does not speak protocol v1 (but v2)", later("protocol-of-nobody", (f"{MODEL}.runtime", "slipway-triton"), (f"{MODEL}.modelFormat.name", "onnx"), (f"{MODEL}.protocolVersion", "v1"))),
    told("RuntimeForbids", f"{MODEL}.args: --allow-code is not among those that ClusterServingRuntime/slipway-pytorch allows: ", later("allows-code", (f"{MODEL}.args", ["--allow-code=true"]))),
    told("RuntimeForbids", f"{MODEL}.env: LD_PRELOAD says what is loaded and run, which is the runtime's", later("preloads", (f"{MODEL}.env", [{"name": "LD_PRELOAD", "value": "/mnt/models/own.so"}]))),
    told("RuntimeForbids", "spec.traffic.variants[b].model.env: PYTHONPATH says what is loaded and run", later("preloads-in-a-variant", ("spec.traffic.variants", [variant("b", model=service()["spec"]["predictor"]["model"] | {"env": [{"name": "PYTHONPATH", "value": "/mnt/models"}]})]))),
    told("OptionNotSupported", f"{OPTIONS}.preferredBatchSizes has 8, more than maxBatchSize, which is 4", later("batches-over-the-most", (OPTIONS, {"maxBatchSize": 4, "preferredBatchSizes": [8]}))),
    told("ServiceAccountRefused", "spec.predictor.serviceAccountName: models may not run as ServiceAccount admin of namespace ", later("account-of-an-admin", ("spec.predictor.serviceAccountName", "admin"))),
    told("InvalidTraffic", "spec.traffic: variant b: regex '(?=a)b' cannot be used: lookaround", later("looks-around", ("spec.traffic.variants", [group("b", "regex", "(?=a)b")]))),
    told("InvalidTraffic", "the match header x-group exact beta can never win, for variant b takes all of it by header x-group prefix be; put variant c first", later("never-wins", ("spec.traffic.variants", [group("b", "prefix", "be"), group("c", "exact", "beta")]))),
    told("InvalidAccess", "spec.access: jwt.jwks has a private or secret key: put public keys only", later("shows-its-key", ("spec.access.jwt", {"issuer": "i", "jwks": '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'}))),
    told("InvalidRollout", "spec.rollout: steps[1].weight is 5%, less than the 25% of the step before", later("steps-down", ("spec.rollout", {"steps": [{"weight": "25%"}, {"weight": "5%"}]}))),
    told("InvalidRollout", "leave the namespace out, only the service's own is read", later("reads-others", ("spec.rollout", {"analysis": {"metrics": [{"name": "spy", "promql": 'up{namespace="kube-system"}', "max": 1}]}}))),
    told("InvalidScaling", "spec.scaling: schedule day: there is no time zone 'Mars/Olympus'; names are such as Europe/Vienna", later("scales-on-mars", ("spec.scaling", {"maxReplicas": 2, "schedules": [SCHEDULE | {"timeZone": "Mars/Olympus"}]}))),
    told("InvalidScaling", "spec.scaling: objective.promql: a range is at most 1h: let a recording rule look back further", later("reads-a-year", ("spec.scaling", {"maxReplicas": 2, "objective": {"promql": {"query": "rate(up[1y])", "target": 1}}}))),
]  # fmt: skip
