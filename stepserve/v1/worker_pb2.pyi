from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_ERROR: _ClassVar[FinishReason]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_ERROR: FinishReason

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WorkerInfo(_message.Message):
    __slots__ = ("protocol_version", "incarnation", "model", "fingerprint", "dtype", "vocab_size", "max_context", "block_size", "num_blocks", "max_batch_size", "max_step_tokens", "max_kept_reports", "num_stages", "launch_ahead", "device", "version", "tensor_parallel")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_STEP_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_KEPT_REPORTS_FIELD_NUMBER: _ClassVar[int]
    NUM_STAGES_FIELD_NUMBER: _ClassVar[int]
    LAUNCH_AHEAD_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TENSOR_PARALLEL_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    incarnation: str
    model: str
    fingerprint: str
    dtype: str
    vocab_size: int
    max_context: int
    block_size: int
    num_blocks: int
    max_batch_size: int
    max_step_tokens: int
    max_kept_reports: int
    num_stages: int
    launch_ahead: int
    device: str
    version: str
    tensor_parallel: int
    def __init__(self, protocol_version: _Optional[int] = ..., incarnation: _Optional[str] = ..., model: _Optional[str] = ..., fingerprint: _Optional[str] = ..., dtype: _Optional[str] = ..., vocab_size: _Optional[int] = ..., max_context: _Optional[int] = ..., block_size: _Optional[int] = ..., num_blocks: _Optional[int] = ..., max_batch_size: _Optional[int] = ..., max_step_tokens: _Optional[int] = ..., max_kept_reports: _Optional[int] = ..., num_stages: _Optional[int] = ..., launch_ahead: _Optional[int] = ..., device: _Optional[str] = ..., version: _Optional[str] = ..., tensor_parallel: _Optional[int] = ...) -> None: ...

class LaneMessage(_message.Message):
    __slots__ = ("hello", "command")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    command: StepCommand
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., command: _Optional[_Union[StepCommand, _Mapping]] = ...) -> None: ...

class WorkerMessage(_message.Message):
    __slots__ = ("hello", "report")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    hello: HelloReply
    report: StepReport
    def __init__(self, hello: _Optional[_Union[HelloReply, _Mapping]] = ..., report: _Optional[_Union[StepReport, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol_version", "epoch", "incarnation", "reset", "lane", "wants_reports")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    WANTS_REPORTS_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    epoch: int
    incarnation: str
    reset: bool
    lane: str
    wants_reports: bool
    def __init__(self, protocol_version: _Optional[int] = ..., epoch: _Optional[int] = ..., incarnation: _Optional[str] = ..., reset: _Optional[bool] = ..., lane: _Optional[str] = ..., wants_reports: _Optional[bool] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ("info", "last_step", "sequences", "num_kept_reports", "departed", "last_sequence_id")
    INFO_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_FIELD_NUMBER: _ClassVar[int]
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    NUM_KEPT_REPORTS_FIELD_NUMBER: _ClassVar[int]
    DEPARTED_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_ID_FIELD_NUMBER: _ClassVar[int]
    info: WorkerInfo
    last_step: int
    sequences: _containers.RepeatedCompositeFieldContainer[ResidentSequence]
    num_kept_reports: int
    departed: _containers.RepeatedCompositeFieldContainer[ResidentSequence]
    last_sequence_id: int
    def __init__(self, info: _Optional[_Union[WorkerInfo, _Mapping]] = ..., last_step: _Optional[int] = ..., sequences: _Optional[_Iterable[_Union[ResidentSequence, _Mapping]]] = ..., num_kept_reports: _Optional[int] = ..., departed: _Optional[_Iterable[_Union[ResidentSequence, _Mapping]]] = ..., last_sequence_id: _Optional[int] = ...) -> None: ...

class ResidentSequence(_message.Message):
    __slots__ = ("sequence_id", "job_id", "index", "num_tokens", "num_computed", "block_ids")
    SEQUENCE_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_COMPUTED_FIELD_NUMBER: _ClassVar[int]
    BLOCK_IDS_FIELD_NUMBER: _ClassVar[int]
    sequence_id: int
    job_id: str
    index: int
    num_tokens: int
    num_computed: int
    block_ids: bytes
    def __init__(self, sequence_id: _Optional[int] = ..., job_id: _Optional[str] = ..., index: _Optional[int] = ..., num_tokens: _Optional[int] = ..., num_computed: _Optional[int] = ..., block_ids: _Optional[bytes] = ...) -> None: ...

class StepCommand(_message.Message):
    __slots__ = ("epoch", "incarnation", "step", "committed_step", "release_ids", "admissions", "row_sequence_ids", "row_num_tokens", "row_num_new_blocks", "new_block_ids", "max_duration_ms")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_STEP_FIELD_NUMBER: _ClassVar[int]
    RELEASE_IDS_FIELD_NUMBER: _ClassVar[int]
    ADMISSIONS_FIELD_NUMBER: _ClassVar[int]
    ROW_SEQUENCE_IDS_FIELD_NUMBER: _ClassVar[int]
    ROW_NUM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ROW_NUM_NEW_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NEW_BLOCK_IDS_FIELD_NUMBER: _ClassVar[int]
    MAX_DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    incarnation: str
    step: int
    committed_step: int
    release_ids: bytes
    admissions: _containers.RepeatedCompositeFieldContainer[Admission]
    row_sequence_ids: bytes
    row_num_tokens: bytes
    row_num_new_blocks: bytes
    new_block_ids: bytes
    max_duration_ms: int
    def __init__(self, epoch: _Optional[int] = ..., incarnation: _Optional[str] = ..., step: _Optional[int] = ..., committed_step: _Optional[int] = ..., release_ids: _Optional[bytes] = ..., admissions: _Optional[_Iterable[_Union[Admission, _Mapping]]] = ..., row_sequence_ids: _Optional[bytes] = ..., row_num_tokens: _Optional[bytes] = ..., row_num_new_blocks: _Optional[bytes] = ..., new_block_ids: _Optional[bytes] = ..., max_duration_ms: _Optional[int] = ...) -> None: ...

class Admission(_message.Message):
    __slots__ = ("sequence_id", "job_id", "index", "token_ids", "num_prompt_tokens", "num_computed", "block_ids", "sampling")
    SEQUENCE_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    NUM_PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_COMPUTED_FIELD_NUMBER: _ClassVar[int]
    BLOCK_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    sequence_id: int
    job_id: str
    index: int
    token_ids: bytes
    num_prompt_tokens: int
    num_computed: int
    block_ids: bytes
    sampling: Sampling
    def __init__(self, sequence_id: _Optional[int] = ..., job_id: _Optional[str] = ..., index: _Optional[int] = ..., token_ids: _Optional[bytes] = ..., num_prompt_tokens: _Optional[int] = ..., num_computed: _Optional[int] = ..., block_ids: _Optional[bytes] = ..., sampling: _Optional[_Union[Sampling, _Mapping]] = ...) -> None: ...

class Sampling(_message.Message):
    __slots__ = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop_token_ids", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias_ids", "logit_bias_values", "num_logprobs", "min_tokens", "structured_outputs", "prompt_logprobs")
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_VALUES_FIELD_NUMBER: _ClassVar[int]
    NUM_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STRUCTURED_OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    stop_token_ids: bytes
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias_ids: bytes
    logit_bias_values: bytes
    num_logprobs: int
    min_tokens: int
    structured_outputs: Structure
    prompt_logprobs: int
    def __init__(self, max_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., min_p: _Optional[float] = ..., seed: _Optional[int] = ..., stop_token_ids: _Optional[bytes] = ..., presence_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., logit_bias_ids: _Optional[bytes] = ..., logit_bias_values: _Optional[bytes] = ..., num_logprobs: _Optional[int] = ..., min_tokens: _Optional[int] = ..., structured_outputs: _Optional[_Union[Structure, _Mapping]] = ..., prompt_logprobs: _Optional[int] = ...) -> None: ...

class Structure(_message.Message):
    __slots__ = ("json", "regex", "choice", "grammar", "json_object")
    JSON_FIELD_NUMBER: _ClassVar[int]
    REGEX_FIELD_NUMBER: _ClassVar[int]
    CHOICE_FIELD_NUMBER: _ClassVar[int]
    GRAMMAR_FIELD_NUMBER: _ClassVar[int]
    JSON_OBJECT_FIELD_NUMBER: _ClassVar[int]
    json: str
    regex: str
    choice: _containers.RepeatedScalarFieldContainer[str]
    grammar: str
    json_object: bool
    def __init__(self, json: _Optional[str] = ..., regex: _Optional[str] = ..., choice: _Optional[_Iterable[str]] = ..., grammar: _Optional[str] = ..., json_object: _Optional[bool] = ...) -> None: ...

class StepReport(_message.Message):
    __slots__ = ("incarnation", "epoch", "step", "token_sequence_ids", "token_offsets", "token_ids", "logprobs", "finished_ids", "finish_reasons", "freed_ids", "freed_num_blocks", "freed_block_ids", "duration_us", "num_positions", "num_context")
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOKEN_SEQUENCE_IDS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_OFFSETS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_IDS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASONS_FIELD_NUMBER: _ClassVar[int]
    FREED_IDS_FIELD_NUMBER: _ClassVar[int]
    FREED_NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    FREED_BLOCK_IDS_FIELD_NUMBER: _ClassVar[int]
    DURATION_US_FIELD_NUMBER: _ClassVar[int]
    NUM_POSITIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    incarnation: str
    epoch: int
    step: int
    token_sequence_ids: bytes
    token_offsets: bytes
    token_ids: bytes
    logprobs: _containers.RepeatedCompositeFieldContainer[RowLogprobs]
    finished_ids: bytes
    finish_reasons: bytes
    freed_ids: bytes
    freed_num_blocks: bytes
    freed_block_ids: bytes
    duration_us: int
    num_positions: int
    num_context: int
    def __init__(self, incarnation: _Optional[str] = ..., epoch: _Optional[int] = ..., step: _Optional[int] = ..., token_sequence_ids: _Optional[bytes] = ..., token_offsets: _Optional[bytes] = ..., token_ids: _Optional[bytes] = ..., logprobs: _Optional[_Iterable[_Union[RowLogprobs, _Mapping]]] = ..., finished_ids: _Optional[bytes] = ..., finish_reasons: _Optional[bytes] = ..., freed_ids: _Optional[bytes] = ..., freed_num_blocks: _Optional[bytes] = ..., freed_block_ids: _Optional[bytes] = ..., duration_us: _Optional[int] = ..., num_positions: _Optional[int] = ..., num_context: _Optional[int] = ...) -> None: ...

class RowLogprobs(_message.Message):
    __slots__ = ("position", "logprob", "top_ids", "top_logprobs", "prompt")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    position: int
    logprob: float
    top_ids: bytes
    top_logprobs: bytes
    prompt: PackedLogprobs
    def __init__(self, position: _Optional[int] = ..., logprob: _Optional[float] = ..., top_ids: _Optional[bytes] = ..., top_logprobs: _Optional[bytes] = ..., prompt: _Optional[_Union[PackedLogprobs, _Mapping]] = ...) -> None: ...

class PackedLogprobs(_message.Message):
    __slots__ = ("logprobs", "top_ids", "top_logprobs")
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    TOP_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    logprobs: bytes
    top_ids: bytes
    top_logprobs: bytes
    def __init__(self, logprobs: _Optional[bytes] = ..., top_ids: _Optional[bytes] = ..., top_logprobs: _Optional[bytes] = ...) -> None: ...
