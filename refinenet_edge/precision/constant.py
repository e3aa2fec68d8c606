"""New constants and names of a graph, as the passes of this stage make them."""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


def constant(name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """A value that holds `array`, not yet among a graph's initializers."""
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)


class Names:
    """The names of a graph's values and nodes, and new ones that nothing in it has."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._taken = {str(value.name) for value in (*graph.inputs, *graph.initializers.values())}
        for node in graph.all_nodes():
            self._taken |= {str(node.name), *(str(value.name) for value in node.outputs)}

    def free(self, name: str) -> str:
        """`name`, or if something has it, the first of name', name'' ... that nothing has. It is taken from now on."""
        while name in self._taken:
            name += "'"
        self._taken.add(name)
        return name

    def constant(self, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        """A new initializer of the graph that holds `array`, called `name` if that is free."""
        value = constant(self.free(name), array)
        self._graph.initializers.add(value)
        return value
