"""The service's calls over gRPC: what a client calls, and what a server answers.

Messages are made and read by ``inference_wire``, which needs no gRPC.
"""

from stepserve.v1.inference_pb2_grpc import (
    InferenceServicer,
    InferenceStub,
    add_InferenceServicer_to_server,
)

__all__ = ["InferenceServicer", "InferenceStub", "add_InferenceServicer_to_server"]
