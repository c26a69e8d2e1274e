"""What the objects of other projects may hold: of their kinds, the parts that ours could use.

Written anew after their published definitions, stricter than these (no field that is not named
here): ScaledObject after KEDA 2.18's reference of its specification, ServiceMonitor and
PrometheusRule after the Prometheus operator's API reference (monitoring.coreos.com/v1, 0.84).
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
DURATION: Schema = {"type": "string", "pattern": r"^([0-9]+(ms|s|m|h|d|w|y))+$"}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def fields(required: str = "", **named: Schema) -> Schema:
    """Return the schema of an object with these fields and no others."""
    return {
        "type": "object",
        "properties": named,
        "required": required.split(),
        "additionalProperties": False,
    }


def many(schema: Schema) -> Schema:
    return {"type": "array", "items": schema, "minItems": 1}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


METADATA = fields("name", name=TEXT, namespace=TEXT, labels=LABELS, annotations=LABELS)
SELECTOR = fields(
    matchLabels=LABELS,
    matchExpressions=many(
        fields(
            "key operator",
            key=TEXT,
            operator=one_of("In", "NotIn", "Exists", "DoesNotExist"),
            values=many(TEXT),
        )
    ),
)


def kind(api_version: str, name: str, spec: Schema) -> Schema:
    return fields(
        "apiVersion kind metadata spec",
        apiVersion={"const": api_version},
        kind={"const": name},
        metadata=METADATA,
        spec=spec,
    )


RULES = fields(
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    selectPolicy=one_of("Max", "Min", "Disabled"),
    policies=many(
        fields(
            "type value periodSeconds",
            type=one_of("Pods", "Percent"),
            value={"type": "integer", "minimum": 1},
            periodSeconds={"type": "integer", "minimum": 1, "maximum": 1800},
        )
    ),
)
PROMETHEUS_TRIGGER = fields(
    "type metadata",
    type={"const": "prometheus"},
    name=TEXT,
    metricType=one_of("AverageValue", "Value"),
    useCachedMetrics={"type": "boolean"},
    authenticationRef=fields("name", name=TEXT, kind=TEXT),
    # All values of a trigger's metadata are texts.
    metadata=fields(
        "serverAddress query threshold",
        serverAddress={"type": "string", "pattern": "^https?://"},
        query=TEXT,
        threshold={"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"},
        activationThreshold={"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"},
        namespace=TEXT,
        ignoreNullValues=one_of("true", "false"),
        unsafeSsl=one_of("true", "false"),
        timeout=TEXT,
        authModes=TEXT,
    ),
)
SCALED_OBJECT = kind(
    "keda.sh/v1alpha1",
    "ScaledObject",
    fields(
        "scaleTargetRef triggers",
        scaleTargetRef=fields(
            "name", apiVersion=TEXT, kind=TEXT, name=TEXT, envSourceContainerName=TEXT
        ),
        pollingInterval=COUNT,
        cooldownPeriod=COUNT,
        initialCooldownPeriod=COUNT,
        idleReplicaCount={"const": 0},
        minReplicaCount=COUNT,
        maxReplicaCount=COUNT,
        fallback=fields(
            "failureThreshold replicas",
            failureThreshold=COUNT,
            replicas=COUNT,
            behavior=one_of(
                "static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"
            ),
        ),
        advanced=fields(
            restoreToOriginalReplicaCount={"type": "boolean"},
            horizontalPodAutoscalerConfig=fields(
                name=TEXT, behavior=fields(scaleUp=RULES, scaleDown=RULES)
            ),
        ),
        triggers=many(PROMETHEUS_TRIGGER),
    ),
)
SERVICE_MONITOR = kind(
    "monitoring.coreos.com/v1",
    "ServiceMonitor",
    fields(
        "selector endpoints",
        jobLabel=TEXT,
        targetLabels=many(TEXT),
        namespaceSelector=fields(any={"type": "boolean"}, matchNames=many(TEXT)),
        selector=SELECTOR,
        endpoints=many(
            fields(
                "port",
                port=TEXT,
                path={"type": "string", "pattern": "^/"},
                scheme=one_of("http", "https"),
                interval=DURATION,
                scrapeTimeout=DURATION,
            )
        ),
    ),
)
ALERT = fields(
    "alert expr",
    alert={"type": "string", "pattern": "^[A-Z][A-Za-z]+$"},
    expr=TEXT,
    labels=LABELS,
    annotations=LABELS,
    **{"for": DURATION, "keep_firing_for": DURATION},
)
RECORD = fields(
    "record expr",
    record={"type": "string", "pattern": "^[a-zA-Z_:][a-zA-Z0-9_:]*$"},
    expr=TEXT,
    labels=LABELS,
)
PROMETHEUS_RULE = kind(
    "monitoring.coreos.com/v1",
    "PrometheusRule",
    fields(
        "groups",
        groups=many(
            fields(
                "name rules", name=TEXT, interval=DURATION, rules=many({"oneOf": [ALERT, RECORD]})
            )
        ),
    ),
)
CUSTOM = {
    "ScaledObject": SCALED_OBJECT,
    "ServiceMonitor": SERVICE_MONITOR,
    "PrometheusRule": PROMETHEUS_RULE,
}
