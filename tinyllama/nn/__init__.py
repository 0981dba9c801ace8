"""Layers: named parameters and the operations they go through, each backward its forward read upwards."""

from tinyllama.nn.attention import Attention
from tinyllama.nn.block import Block
from tinyllama.nn.dropout import Dropout
from tinyllama.nn.embedding import Embedding
from tinyllama.nn.layer import Context, Layer
from tinyllama.nn.linear import Linear
from tinyllama.nn.mlp import MLP, SwiGLU
from tinyllama.nn.norm import LayerNorm, RMSNorm
from tinyllama.nn.parameters import Declaration, NamedViews, Parameters
from tinyllama.nn.positions import LearnedPositions, RotaryTable, SinusoidalPositions

__all__ = ["MLP", "Attention", "Block", "Context", "Declaration", "Dropout", "Embedding", "Layer", "LayerNorm",
           "LearnedPositions", "Linear", "NamedViews", "Parameters", "RMSNorm", "RotaryTable", "SinusoidalPositions",
           "SwiGLU"]
