//! Runs small ONNX nets with torch: those of moderation, which come as graphs of a few plain operators.
//!
//! A graph becomes a list of operators on numbered places; weights are brought to one type once, results are dropped
//! after their last use. What an exporter writes as five operators for a GELU is one here. An operator, attribute or type
//! that is not listed is an error when the net is read, never at its first picture. Reference: onnx.ai
//! `onnx/docs/Operators.md`, versions 9 to 18 of the operator set.

use super::Fault;
use crate::model::nn::Result;
use rten_onnx::onnx::{AttributeProto, DataType, ModelProto, NodeProto, TensorProto};
use std::collections::HashMap;
use tch::{Device, Kind, Tensor};

/// Numbers of places of a graph: weights, inputs and results.
type Place = usize;

/// What makes a result. Those with attributes carry them.
#[derive(Debug)]
enum Operator {
    Add,
    AveragePool(Window),
    BatchNorm {
        epsilon: f64,
    },
    Clamp,
    Concat {
        axis: i64,
    },
    Conv {
        window: Window,
        groups: i64,
    },
    Divide,
    Erf,
    Expand,
    Gelu,
    /// `a bᵀ + c`.
    Linear,
    MatMul,
    MaxPool(Window),
    Mean {
        keep: bool,
    },
    Multiply,
    Norm {
        keep: bool,
    },
    Relu,
    Reshape {
        zero_is_zero: bool,
    },
    Shape {
        start: i64,
        end: Option<i64>,
    },
    Softmax {
        axis: i64,
    },
    Subtract,
    Sum {
        keep: bool,
    },
    Transpose {
        order: Vec<i64>,
    },
}

/// A sliding window in a picture. Lengths along height and width.
#[derive(Debug)]
struct Window {
    /// As long as the weights where there are any.
    kernel: Vec<i64>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    /// Top, left, bottom, right.
    pads: [i64; 4],
}

impl Window {
    /// The largest number of each window.
    fn max_of(&self, x: &Tensor) -> Result {
        let pool = |x: &Tensor, beyond: bool| {
            let (kernel, strides) = (self.kernel.clone(), self.strides.clone());
            x.f_max_pool2d(kernel, strides, [0, 0], self.dilations.clone(), beyond)
        };
        if self.only_ends_beyond(&x.size()) {
            // Torch lets the last windows do so, without a copy of the picture.
            return pool(x, true);
        }
        let [top, left, bottom, right] = self.pads;
        let padded = x.f_pad([left, right, top, bottom], "constant", f64::NEG_INFINITY)?;
        pool(&padded, false)
    }

    /// Whether the pads only let the last windows of a picture reach beyond it, and let none begin there.
    fn only_ends_beyond(&self, size: &[i64]) -> bool {
        let (&[.., height, width], &[tall, wide]) = (size, &self.kernel[..]) else { return false };
        let &[down, along] = &self.strides[..] else { return false };
        let [top, left, bottom, right] = self.pads;
        let fits = |side: i64, kernel: i64, stride: i64, after: i64| {
            let last = (side + after - kernel) / stride;
            side >= kernel && last == (side - kernel + stride - 1) / stride && last * stride < side
        };
        let plain = self.dilations.iter().all(|dilation| *dilation == 1);
        let begins = (top, left) == (0, 0) && plain;
        begins && fits(height, tall, down, bottom) && fits(width, wide, along, right)
    }
}

struct Step {
    operator: Operator,
    inputs: Vec<Place>,
    output: Place,
    /// Places that nobody needs any more.
    over: Vec<Place>,
}

/// A net that takes pictures and gives numbers.
pub struct Graph {
    weights: Vec<Option<Tensor>>,
    input: Place,
    output: Place,
    steps: Vec<Step>,
    kind: Kind,
}

impl Graph {
    /// Reads a net whose `input` is a batch of pictures; `output` is what is asked for. Computes in `kind`.
    ///
    /// # Errors
    /// `Fault::Input` if it is no such net, or needs what this file has not.
    pub fn read(bytes: &[u8], input: &str, output: &str, kind: Kind) -> Result<Graph, Fault> {
        let refused = |why: String| Fault::Input(format!("an ONNX net: {why}"));
        let model = ModelProto::parse_buf(bytes).map_err(|error| refused(error.to_string()))?;
        let graph = model.graph.ok_or_else(|| refused("there is no graph".into()))?;
        if !graph.input.iter().any(|there| there.name.as_deref() == Some(input)) {
            return Err(refused(format!("it does not take {input}")));
        }
        let mut places = Places::default();
        let mut weights = Vec::new();
        for tensor in &graph.initializer {
            let place = places.named(tensor.name.as_deref().unwrap_or_default());
            weights.resize_with(place + 1, || None);
            weights[place] = Some(weight(tensor, kind).map_err(refused)?);
        }
        let input = places.named(input);
        let mut steps = Vec::new();
        let mut nodes = graph.node.as_slice();
        while let Some(node) = nodes.first() {
            let scalar = |name: &String| {
                let weight = weights.get(places.known(name)?)?.as_ref()?;
                if weight.numel() == 1 { weight.f_double_value(&[]).ok() } else { None }
            };
            let (operator, names, result, count) = match gelu(nodes, scalar) {
                Some((x, result)) => (Operator::Gelu, std::slice::from_ref(x), result, GELU.len()),
                None => {
                    let [result] = node.output.as_slice() else {
                        return Err(refused(format!("{} has not one result", name(node))));
                    };
                    (operator(node).map_err(refused)?, node.input.as_slice(), result, 1)
                }
            };
            let inputs = names.iter().map(|name| places.known(name)).collect::<Option<Vec<_>>>();
            let inputs =
                inputs.ok_or_else(|| refused(format!("{} reads what nobody made", name(node))))?;
            steps.push(Step { operator, inputs, output: places.named(result), over: Vec::new() });
            nodes = &nodes[count..];
        }
        let output = places.known(output).ok_or_else(|| refused(format!("no {output} in it")))?;
        let constant = |place: &Place| weights.get(*place).is_some_and(Option::is_some);
        let mut seen = vec![output];
        for step in steps.iter_mut().rev() {
            for place in &step.inputs {
                if !constant(place) && !seen.contains(place) {
                    seen.push(*place);
                    step.over.push(*place);
                }
            }
        }
        weights.resize_with(places.0.len(), || None);
        Ok(Graph { weights, input, output, steps, kind })
    }

    /// Runs the net on a batch.
    ///
    /// # Shapes
    /// `x`: as the net says, f32, with the batch first. The result: the same, flattened to (b, …), f32.
    /// # Errors
    /// If torch fails: the batch has another shape.
    pub fn run(&self, x: &Tensor) -> Result {
        let mut values: Vec<Option<Tensor>> = Vec::new();
        values.resize_with(self.weights.len(), || None);
        values[self.input] = Some(x.f_to_dtype(self.kind, false, false)?);
        for step in &self.steps {
            let value = |place: &Place| values[*place].as_ref().or(self.weights[*place].as_ref());
            let inputs: Vec<&Tensor> = step.inputs.iter().filter_map(value).collect();
            let result = step.operator.run(&inputs)?;
            values[step.output] = Some(result);
            for place in &step.over {
                values[*place] = None;
            }
        }
        let output = values[self.output].take().unwrap_or_else(|| x.shallow_clone());
        output.f_to_dtype(Kind::Float, false, false)
    }
}

/// The places of a graph, by name.
#[derive(Default)]
struct Places(HashMap<String, Place>);

impl Places {
    fn known(&self, name: &str) -> Option<Place> {
        self.0.get(name).copied()
    }

    fn named(&mut self, name: &str) -> Place {
        let next = self.0.len();
        *self.0.entry(name.to_owned()).or_insert(next)
    }
}

impl Operator {
    fn run(&self, inputs: &[&Tensor]) -> Result {
        // Read only for operators that have as many: the graph was made by a tool that checks that.
        let short = || tch::TchError::Shape(format!("{self:?} has {} inputs", inputs.len()));
        let at = |n: usize| inputs.get(n).copied().ok_or_else(short);
        let numbers = |n: usize| -> Result<Vec<i64>> { Vec::<i64>::try_from(at(n)?) };
        let x = at(0)?;
        match self {
            Operator::Add => x.f_add(at(1)?),
            Operator::AveragePool(window) => {
                let Window { kernel, strides, pads, .. } = window;
                let pads = pads[..2].to_vec();
                x.f_avg_pool2d(kernel.clone(), strides.clone(), pads, false, false, None)
            }
            Operator::BatchNorm { epsilon } => {
                let (gain, bias, mean, variance) = (at(1)?, at(2)?, at(3)?, at(4)?);
                let (gain, bias) = (Some(gain), Some(bias));
                x.f_batch_norm(gain, bias, Some(mean), Some(variance), false, 0.0, *epsilon, false)
            }
            Operator::Clamp => x.f_clamp_tensor(Some(at(1)?), inputs.get(2).copied()),
            Operator::Concat { axis } => Tensor::f_cat(inputs, *axis),
            Operator::Conv { window, groups } => {
                let Window { strides, dilations, pads, .. } = window;
                let (strides, dilations) = (strides.clone(), dilations.clone());
                let bias = inputs.get(2).copied();
                x.f_conv2d(at(1)?, bias, strides, pads[..2].to_vec(), dilations, *groups)
            }
            Operator::Divide => x.f_div(at(1)?),
            Operator::Erf => x.f_erf(),
            Operator::Expand => x.f_broadcast_to(broadcast(&x.size(), &numbers(1)?)),
            Operator::Gelu => gelu_of(x),
            Operator::Linear => x.f_linear(at(1)?, inputs.get(2).copied()),
            Operator::MatMul => x.f_matmul(at(1)?),
            Operator::MaxPool(window) => window.max_of(x),
            Operator::Mean { keep } => x.f_mean_dim(numbers(1)?.as_slice(), *keep, None::<Kind>),
            Operator::Multiply => x.f_mul(at(1)?),
            Operator::Norm { keep } => {
                let wide = x.f_to_dtype(Kind::Float, false, false)?;
                let norm = wide.f_norm_scalaropt_dim(2.0, numbers(1)?, *keep)?;
                norm.f_to_dtype(x.f_kind()?, false, false)
            }
            Operator::Relu => x.f_relu(),
            Operator::Reshape { zero_is_zero } => {
                let size = x.size();
                let same = |(at, side): (usize, i64)| match side {
                    0 if !zero_is_zero => size.get(at).copied().unwrap_or(0),
                    side => side,
                };
                x.f_reshape(numbers(1)?.into_iter().enumerate().map(same).collect::<Vec<_>>())
            }
            Operator::Shape { start, end } => {
                let size = x.size();
                let count = size.len() as i64;
                let place = |at: i64| if at < 0 { at + count } else { at }.clamp(0, count) as usize;
                let range = place(*start)..place(end.unwrap_or(count));
                Tensor::f_from_slice(size.get(range).unwrap_or_default())
            }
            Operator::Softmax { axis } => x.f_softmax(*axis, Kind::Float),
            Operator::Subtract => x.f_sub(at(1)?),
            Operator::Sum { keep } => {
                x.f_sum_dim_intlist(numbers(1)?.as_slice(), *keep, None::<Kind>)
            }
            Operator::Transpose { order } => x.f_permute(order.clone()),
        }
    }
}

/// A GELU. Torch's fast way takes numbers in their order in memory: of a picture whose channels come last, as rows of channels.
fn gelu_of(x: &Tensor) -> Result {
    if x.dim() == 4 && x.stride()[1] == 1 {
        return x.f_permute([0, 2, 3, 1])?.f_gelu("none")?.f_permute([0, 3, 1, 2]);
    }
    x.f_gelu("none")
}

/// The shape of both: a side of 1 becomes as long as the other.
fn broadcast(a: &[i64], b: &[i64]) -> Vec<i64> {
    let length = a.len().max(b.len());
    let side = |of: &[i64], at: usize| {
        (at + of.len()).checked_sub(length).and_then(|at| of.get(at)).copied().unwrap_or(1)
    };
    (0..length).map(|at| side(a, at).max(side(b, at))).collect()
}

fn name(node: &NodeProto) -> &str {
    node.op_type.as_deref().unwrap_or("an operator without a name")
}

/// What a node does.
fn operator(node: &NodeProto) -> Result<Operator, String> {
    let attributes = Attributes(node);
    let keep = || attributes.number("keepdims").unwrap_or(1) == 1;
    Ok(match name(node) {
        "Add" => Operator::Add,
        "AveragePool" => Operator::AveragePool(attributes.even_window()?),
        "BatchNormalization" => {
            Operator::BatchNorm { epsilon: f64::from(attributes.float("epsilon").unwrap_or(1e-5)) }
        }
        "Clip" => Operator::Clamp,
        "Concat" => Operator::Concat { axis: attributes.number("axis").ok_or("Concat: no axis")? },
        "Conv" => Operator::Conv {
            window: attributes.even_window()?,
            groups: attributes.number("group").unwrap_or(1),
        },
        "Div" => Operator::Divide,
        "Erf" => Operator::Erf,
        "Expand" => Operator::Expand,
        "Gemm" => {
            let is = |name, wanted: f32| attributes.float(name).unwrap_or(1.0) == wanted;
            let turned = |name| attributes.number(name).unwrap_or(0);
            let linear = is("alpha", 1.0) && is("beta", 1.0);
            if !linear || turned("transA") != 0 || turned("transB") != 1 {
                return Err("Gemm: only a linear layer is known".into());
            }
            Operator::Linear
        }
        "MatMul" => Operator::MatMul,
        "MaxPool" => Operator::MaxPool(attributes.window()?),
        "Mul" => Operator::Multiply,
        "ReduceL2" => Operator::Norm { keep: keep() },
        "ReduceMean" => Operator::Mean { keep: keep() },
        "ReduceSum" => Operator::Sum { keep: keep() },
        "Relu" => Operator::Relu,
        "Reshape" => {
            Operator::Reshape { zero_is_zero: attributes.number("allowzero").unwrap_or(0) == 1 }
        }
        "Shape" => Operator::Shape {
            start: attributes.number("start").unwrap_or(0),
            end: attributes.number("end"),
        },
        "Softmax" => Operator::Softmax { axis: attributes.number("axis").unwrap_or(-1) },
        "Sub" => Operator::Subtract,
        "Transpose" => Operator::Transpose {
            order: attributes.numbers("perm").ok_or("Transpose: no order")?.to_vec(),
        },
        other => return Err(format!("the operator {other} is not known")),
    })
}

struct Attributes<'a>(&'a NodeProto);

impl Attributes<'_> {
    fn get(&self, name: &str) -> Option<&AttributeProto> {
        self.0.attribute.iter().find(|attribute| attribute.name.as_deref() == Some(name))
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.get(name)?.i
    }

    fn float(&self, name: &str) -> Option<f32> {
        self.get(name)?.f
    }

    fn numbers(&self, name: &str) -> Option<&[i64]> {
        self.get(name).map(|attribute| attribute.ints.as_slice())
    }

    fn window(&self) -> Result<Window, String> {
        let what = name(self.0);
        if let Some(auto) = self.get("auto_pad").and_then(|attribute| attribute.s.as_deref())
            && auto != "NOTSET"
        {
            return Err(format!("{what}: auto_pad {auto} is not known"));
        }
        let sides = |name: &str| self.numbers(name).unwrap_or(&[1, 1]).to_vec();
        let pads = self.numbers("pads").unwrap_or(&[0; 4]);
        let pads = pads.try_into().map_err(|_| format!("{what}: {} pads", pads.len()))?;
        let (strides, dilations) = (sides("strides"), sides("dilations"));
        let kernel = self.numbers("kernel_shape").unwrap_or_default().to_vec();
        Ok(Window { kernel, strides, dilations, pads })
    }

    /// One whose pads are the same on both sides.
    fn even_window(&self) -> Result<Window, String> {
        let window = self.window()?;
        match window.pads {
            [top, left, bottom, right] if (top, left) == (bottom, right) => Ok(window),
            pads => Err(format!("{}: uneven pads {pads:?}", name(self.0))),
        }
    }
}

/// What a GELU is written as: `x · (0.5 · (erf(x / √2) + 1))`.
const GELU: [&str; 5] = ["Div", "Erf", "Add", "Mul", "Mul"];

/// The input and the result of the GELU that these nodes begin with. `scalar` is the value of a constant.
fn gelu(
    nodes: &[NodeProto],
    scalar: impl Fn(&String) -> Option<f64>,
) -> Option<(&String, &String)> {
    let nodes = nodes.get(..GELU.len())?;
    let x = nodes[0].input.first()?;
    // Of each operator: what it reads beside the result before, and the value of that if it is constant.
    let beside = [Some(std::f64::consts::SQRT_2), None, Some(1.0), Some(0.5), None];
    for (n, (node, constant)) in nodes.iter().zip(beside).enumerate() {
        let before = if n == 0 { x } else { nodes[n - 1].output.first()? };
        let others: Vec<&String> = node.input.iter().filter(|input| *input != before).collect();
        let is_right = match (constant, others.as_slice()) {
            (Some(value), [other]) => scalar(other).is_some_and(|is| (is - value).abs() < 0.01),
            (None, []) => n == 1,
            (None, [other]) => n == 4 && *other == x,
            _ => false,
        };
        if name(node) != GELU[n] || !is_right || !node.input.contains(before) {
            return None;
        }
    }
    Some((x, nodes[4].output.first()?))
}

/// A weight as a tensor: numbers in `kind`, shapes as integers.
fn weight(tensor: &TensorProto, kind: Kind) -> Result<Tensor, String> {
    let raw = tensor.raw_data.as_ref().map(|raw| raw.borrow());
    let raw = raw.as_ref().map_or(&[][..], |raw| raw.as_slice());
    let failed = |error: tch::TchError| error.to_string();
    let (values, kind) = match tensor.data_type {
        Some(DataType::FLOAT) => {
            let four = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            let stored: Vec<f32> = raw.chunks_exact(4).map(four).collect();
            let values = if raw.is_empty() { &tensor.float_data } else { &stored };
            (Tensor::f_from_slice(values).map_err(failed)?, kind)
        }
        Some(DataType::INT64) => {
            let eight = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap_or_default());
            let stored: Vec<i64> = raw.chunks_exact(8).map(eight).collect();
            let values = if raw.is_empty() { &tensor.int64_data } else { &stored };
            (Tensor::f_from_slice(values).map_err(failed)?, Kind::Int64)
        }
        other => return Err(format!("weights of type {other:?} are not known")),
    };
    let shaped = values.f_reshape(tensor.dims.as_slice()).map_err(failed)?;
    let narrowed = shaped.f_to(Device::Cpu).and_then(|x| x.f_to_dtype(kind, false, false));
    narrowed.and_then(channels_last).map_err(failed)
}

/// Of the weights of a convolution, channels last in memory: torch then keeps pictures so between convolutions, and does
/// not turn them round for each.
fn channels_last(x: Tensor) -> Result {
    match x.dim() {
        4 => x.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2]),
        _ => Ok(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: windows that reach beyond the picture see nothing there, with a copy of the picture or without.
    #[test]
    fn the_largest_of_windows_beyond_the_picture() {
        let mut without = 0;
        for (side, kernel) in (1..9).flat_map(|side| (1..4).map(move |kernel| (side, kernel))) {
            for (stride, after) in
                (1..4).flat_map(|stride| (0..3).map(move |after| (stride, after)))
            {
                if side + after < kernel {
                    continue;
                }
                let numbers: Vec<f32> = (0..side * 7).map(|n| -((n * 37 % 11) as f32)).collect();
                let x = Tensor::from_slice(&numbers).reshape([1, 1, side, 7]);
                let (kernel, strides) = (vec![kernel, 3], vec![stride, 2]);
                let (dilations, pads) = (vec![1, 1], [0, 0, after, 0]);
                let window = Window { kernel, strides, dilations, pads };
                without += i32::from(window.only_ends_beyond(&x.size()));
                let ours = window.max_of(&x).expect("a result");
                let padded = x.pad([0, 0, 0, after], "constant", f64::NEG_INFINITY);
                let plain =
                    padded.max_pool2d(&*window.kernel, &*window.strides, [0, 0], [1, 1], false);
                assert_eq!(ours, plain, "{window:?} on {side}");
            }
        }
        assert!(without > 20, "{without}");
    }
}
