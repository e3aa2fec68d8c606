"""Triton's `ModelConfig`: the messages of its model_config.proto, with the fields that a repository of ours may have.

Reading another's config.pbtxt leaves out what is not here. Inputs and outputs are here whole: clients rely on them.
`make triton` holds the names, numbers and types to the schema that Triton's own client brings.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

PACKAGE = "inference"
ENUMS = {  # the names of 0, 1, 2 ...
    "DataType": [
        *("TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8"),
        *("TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16"),
    ],
    "Kind": ["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"],
    "Format": ["FORMAT_NONE", "FORMAT_NHWC", "FORMAT_NCHW"],
}
MESSAGES: dict[str, dict[str, tuple[int, str]]] = {  # field: its number and type, "*" for many
    "ModelTensorReshape": {"shape": (1, "int64*")},
    "ModelInput": {
        "name": (1, "string"),
        "data_type": (2, "DataType"),
        "format": (3, "Format"),
        "dims": (4, "int64*"),
        "reshape": (5, "ModelTensorReshape"),
        "is_shape_tensor": (6, "bool"),
        "allow_ragged_batch": (7, "bool"),
        "optional": (8, "bool"),
        "is_non_linear_format_io": (9, "bool"),
    },
    "ModelOutput": {
        "name": (1, "string"),
        "data_type": (2, "DataType"),
        "dims": (3, "int64*"),
        "label_filename": (4, "string"),
        "reshape": (5, "ModelTensorReshape"),
        "is_shape_tensor": (6, "bool"),
        "is_non_linear_format_io": (7, "bool"),
    },
    "Latest": {"num_versions": (1, "uint32")},
    "ModelVersionPolicy": {"latest": (1, "Latest")},
    "ModelInstanceGroup": {"count": (2, "int32"), "gpus": (3, "int32*"), "kind": (4, "Kind")},
    "ModelDynamicBatching": {"max_queue_delay_microseconds": (2, "uint64")},
    "ModelParameter": {"string_value": (1, "string")},
    "ParametersEntry": {"key": (1, "string"), "value": (2, "ModelParameter")},
    "ModelConfig": {
        "name": (1, "string"),
        "platform": (2, "string"),
        "version_policy": (3, "ModelVersionPolicy"),
        "max_batch_size": (4, "int32"),
        "input": (5, "ModelInput*"),
        "output": (6, "ModelOutput*"),
        "instance_group": (7, "ModelInstanceGroup*"),
        "dynamic_batching": (11, "ModelDynamicBatching"),
        "parameters": (14, "ParametersEntry*"),
        "backend": (17, "string"),
    },
}


def _schema() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package=PACKAGE, syntax="proto3")
    for enum, names in ENUMS.items():
        values = [{"name": name, "number": number} for number, name in enumerate(names)]
        file.enum_type.add(name=enum, value=[descriptor_pb2.EnumValueDescriptorProto(**value) for value in values])
    field = descriptor_pb2.FieldDescriptorProto
    for name, fields in MESSAGES.items():
        message = descriptor_pb2.DescriptorProto(name=name)
        for key, (number, type_) in fields.items():
            base, label = type_.rstrip("*"), field.LABEL_REPEATED if type_[-1] == "*" else field.LABEL_OPTIONAL
            one = message.field.add(name=key, number=number, label=label)
            if base in ENUMS or base in MESSAGES:
                within = "ModelConfig." if base == "ParametersEntry" else ""
                one.type_name = f".{PACKAGE}.{within}{base}"
            else:
                one.type = field.Type.Value(f"TYPE_{base.upper()}")
        if name == "ParametersEntry":  # of a map: a message inside that which has it
            message.options.map_entry = True
            entry = message
            continue
        if name == "ModelConfig":
            message.nested_type.append(entry)
        file.message_type.append(message)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.ModelConfig"))


ModelConfig = _schema()


def read_config(text: str) -> Any:
    """A `ModelConfig` from the text of a config.pbtxt, without the fields that are not here. Raises `ValueError`."""
    try:
        return text_format.Parse(text, ModelConfig(), allow_unknown_field=True)
    except text_format.ParseError as exc:
        raise ValueError(str(exc)) from exc


def write_config(config: Any) -> str:
    """The text of a config.pbtxt."""
    return str(text_format.MessageToString(config))
