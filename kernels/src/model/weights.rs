//! One container for everything that has a value per parameter: weights, gradients, optimizer moments.
//!
//! A parameter is a `Tensor<2>` whatever it is: matrices keep the `[out, in]` orientation of Hugging Face
//! files, norms and biases are `[1, n]`. So the optimizer and the gradient sums need one code path, and
//! the name and the order of a parameter are stated once, here. Names are those of Hugging Face's Llama; a family
//! whose files name something otherwise says so ([`super::families`]).

use burn::tensor::Tensor;

use crate::flex::{InnerOrSelf, take};
use crate::operations::Operations;

mod feed_forward;

pub use feed_forward::{ExpertsWeights, FeedForwardWeights, GatedWeights};

/// The parameters of one transformer block, each a `T`.
#[derive(Clone, Debug, PartialEq)]
pub struct Block<T> {
    /// Weight of the norm before attention, `[1, hidden]`.
    pub input_norm: T,
    /// Query projection, `[heads * head_width, hidden]`.
    pub query: T,
    /// Key projection, `[kv_heads * head_width, hidden]`.
    pub key: T,
    /// Value projection, `[kv_heads * head_width, hidden]`.
    pub value: T,
    /// Bias of the query projection, `[1, heads * head_width]`, in families that have one.
    pub query_bias: Option<T>,
    /// Bias of the key projection, `[1, kv_heads * head_width]`, in families that have one.
    pub key_bias: Option<T>,
    /// Bias of the value projection, `[1, kv_heads * head_width]`, in families that have one.
    pub value_bias: Option<T>,
    /// Weight of the norm over each query head, `[1, head_width]`, in families that have one.
    pub query_norm: Option<T>,
    /// Weight of the norm over each key head, `[1, head_width]`, in families that have one.
    pub key_norm: Option<T>,
    /// Output projection of attention, `[hidden, heads * head_width]`.
    pub output: T,
    /// Bias of the output projection, `[1, hidden]`, in checkpoints that have one.
    pub output_bias: Option<T>,
    /// Weight of the norm of attention's output, `[1, hidden]`, in families that have one.
    pub attention_output_norm: Option<T>,
    /// Weight of the norm before the feed-forward part, `[1, hidden]`.
    pub feed_forward_norm: T,
    /// The feed-forward part.
    pub feed_forward: FeedForwardWeights<T>,
    /// Weight of the norm of the feed-forward part's output, `[1, hidden]`, in families that have one.
    pub feed_forward_output_norm: Option<T>,
}

/// The parameters of a decoder, each a `T`.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights<T> {
    /// Token embedding, `[vocabulary, hidden]`; also the head where embeddings are tied.
    pub embedding: T,
    /// The blocks, first one first.
    pub blocks: Vec<Block<T>>,
    /// Weight of the last norm, `[1, hidden]`.
    pub final_norm: T,
    /// Separate head, `[vocabulary, hidden]`; `None` where the embedding serves.
    pub head: Option<T>,
}

/// Visits the fields of a block in one fixed order, with their Hugging Face names.
macro_rules! for_block_fields {
    ($visit_one:ident, $visit_option:ident, $visit_part:ident) => {
        $visit_one!(input_norm, "input_layernorm.weight");
        $visit_one!(query, "self_attn.q_proj.weight");
        $visit_one!(key, "self_attn.k_proj.weight");
        $visit_one!(value, "self_attn.v_proj.weight");
        $visit_option!(query_bias, "self_attn.q_proj.bias");
        $visit_option!(key_bias, "self_attn.k_proj.bias");
        $visit_option!(value_bias, "self_attn.v_proj.bias");
        $visit_option!(query_norm, "self_attn.q_norm.weight");
        $visit_option!(key_norm, "self_attn.k_norm.weight");
        $visit_one!(output, "self_attn.o_proj.weight");
        $visit_option!(output_bias, "self_attn.o_proj.bias");
        $visit_option!(attention_output_norm, "attention_output_norm.weight");
        $visit_one!(feed_forward_norm, "post_attention_layernorm.weight");
        $visit_part!(feed_forward);
        $visit_option!(feed_forward_output_norm, "feed_forward_output_norm.weight");
    };
}

impl<T> Block<T> {
    /// Visits every parameter with its name inside the block.
    pub fn for_each<'a>(&'a self, visit: &mut impl FnMut(&str, &'a T)) {
        macro_rules! one {
            ($field:ident, $name:literal) => {
                visit($name, &self.$field)
            };
        }
        macro_rules! option {
            ($field:ident, $name:literal) => {
                if let Some(value) = &self.$field {
                    visit($name, value);
                }
            };
        }
        macro_rules! part {
            ($field:ident) => {
                self.$field.for_each(visit)
            };
        }
        for_block_fields!(one, option, part);
    }

    /// Visits every parameter for change, in the order of [`Block::for_each`].
    pub fn for_each_mut<'a>(&'a mut self, visit: &mut impl FnMut(&str, &'a mut T)) {
        macro_rules! one {
            ($field:ident, $name:literal) => {
                visit($name, &mut self.$field)
            };
        }
        macro_rules! option {
            ($field:ident, $name:literal) => {
                if let Some(value) = &mut self.$field {
                    visit($name, value);
                }
            };
        }
        macro_rules! part {
            ($field:ident) => {
                self.$field.for_each_mut(visit)
            };
        }
        for_block_fields!(one, option, part);
    }

    /// Makes a block of the same form with another value for each parameter.
    ///
    /// # Errors
    /// The first error of `make`.
    pub fn try_map<'a, U, E>(
        &'a self,
        make: &mut impl FnMut(&str, &'a T) -> Result<U, E>,
    ) -> Result<Block<U>, E> {
        let mut option =
            |name, value: &'a Option<T>| value.as_ref().map(|value| make(name, value)).transpose();
        let query_bias = option("self_attn.q_proj.bias", &self.query_bias)?;
        let key_bias = option("self_attn.k_proj.bias", &self.key_bias)?;
        let value_bias = option("self_attn.v_proj.bias", &self.value_bias)?;
        let query_norm = option("self_attn.q_norm.weight", &self.query_norm)?;
        let key_norm = option("self_attn.k_norm.weight", &self.key_norm)?;
        let output_bias = option("self_attn.o_proj.bias", &self.output_bias)?;
        let attention_output_norm = option("attention_output_norm.weight", &self.attention_output_norm)?;
        let feed_forward_output_norm =
            option("feed_forward_output_norm.weight", &self.feed_forward_output_norm)?;
        Ok(Block {
            input_norm: make("input_layernorm.weight", &self.input_norm)?,
            query: make("self_attn.q_proj.weight", &self.query)?,
            key: make("self_attn.k_proj.weight", &self.key)?,
            value: make("self_attn.v_proj.weight", &self.value)?,
            query_bias,
            key_bias,
            value_bias,
            query_norm,
            key_norm,
            output: make("self_attn.o_proj.weight", &self.output)?,
            output_bias,
            attention_output_norm,
            feed_forward_norm: make("post_attention_layernorm.weight", &self.feed_forward_norm)?,
            feed_forward: self.feed_forward.try_map(make)?,
            feed_forward_output_norm,
        })
    }

    /// [`Block::try_map`] for a function that cannot fail.
    pub fn map<'a, U>(&'a self, make: &mut impl FnMut(&str, &'a T) -> U) -> Block<U> {
        let made: Result<_, std::convert::Infallible> =
            self.try_map(&mut |name, value| Ok(make(name, value)));
        match made {
            Ok(block) => block,
        }
    }
}

impl<T> Weights<T> {
    /// Visits every parameter with its Hugging Face name, in one fixed order.
    pub fn for_each<'a>(&'a self, mut visit: impl FnMut(&str, &'a T)) {
        visit("model.embed_tokens.weight", &self.embedding);
        for (layer, block) in self.blocks.iter().enumerate() {
            block.for_each(&mut |name, value| visit(&block_name(layer, name), value));
        }
        visit("model.norm.weight", &self.final_norm);
        if let Some(head) = &self.head {
            visit("lm_head.weight", head);
        }
    }

    /// Visits every parameter for change, in the order of [`Weights::for_each`].
    pub fn for_each_mut<'a>(&'a mut self, mut visit: impl FnMut(&str, &'a mut T)) {
        visit("model.embed_tokens.weight", &mut self.embedding);
        for (layer, block) in self.blocks.iter_mut().enumerate() {
            block.for_each_mut(&mut |name, value| visit(&block_name(layer, name), value));
        }
        visit("model.norm.weight", &mut self.final_norm);
        if let Some(head) = &mut self.head {
            visit("lm_head.weight", head);
        }
    }

    /// Makes weights of the same form with another value for each parameter. The order of the calls is
    /// not that of [`Weights::for_each`].
    ///
    /// # Errors
    /// The first error of `make`.
    pub fn try_map<'a, U, E>(
        &'a self,
        mut make: impl FnMut(&str, &'a T) -> Result<U, E>,
    ) -> Result<Weights<U>, E> {
        let embedding = make("model.embed_tokens.weight", &self.embedding)?;
        let blocks = self
            .blocks
            .iter()
            .enumerate()
            .map(|(layer, block)| block.try_map(&mut |name, value| make(&block_name(layer, name), value)))
            .collect::<Result<_, E>>()?;
        let final_norm = make("model.norm.weight", &self.final_norm)?;
        let head = self.head.as_ref().map(|head| make("lm_head.weight", head)).transpose()?;
        Ok(Weights { embedding, blocks, final_norm, head })
    }

    /// [`Weights::try_map`] for a function that cannot fail.
    pub fn map<'a, U>(&'a self, mut make: impl FnMut(&str, &'a T) -> U) -> Weights<U> {
        let made: Result<_, std::convert::Infallible> = self.try_map(|name, value| Ok(make(name, value)));
        match made {
            Ok(weights) => weights,
        }
    }

    /// Weights of the same form, whose values are made in the order of [`Weights::for_each`].
    pub(crate) fn in_order<U>(&self, mut make: impl FnMut() -> U) -> Weights<U> {
        let mut made = Vec::new();
        self.for_each(|_, _| made.push(Some(make())));
        let mut places = self.map(|_, _| 0);
        places.values_mut().into_iter().enumerate().for_each(|(number, place)| *place = number);
        places.map(|_, place| made[*place].take().expect("each place is filled once"))
    }

    /// The parameters and their names as a list, in the order of [`Weights::for_each`].
    pub fn named(&self) -> Vec<(String, &T)> {
        let mut list = Vec::new();
        self.for_each(|name, value| list.push((name.to_owned(), value)));
        list
    }

    /// The parameters as a list for change, in the order of [`Weights::for_each`].
    pub fn values_mut(&mut self) -> Vec<&mut T> {
        let mut list = Vec::new();
        self.for_each_mut(|_, value| list.push(value));
        list
    }
}

impl Weights<Tensor<2>> {
    /// Zeros of the same shapes on the same device, without autodiff: where gradients are summed.
    #[must_use]
    pub fn zeros_like(&self, operations: Operations) -> Self {
        self.map(|_, value| operations.zeros_like(&value.clone().inner_or_self()))
    }

    /// Zeros in the memory of these tensors, or of others where somebody shares them.
    #[must_use]
    pub fn into_zeros(mut self, operations: Operations) -> Self {
        for value in self.values_mut() {
            *value = operations.into_zeros(take(value));
        }
        self
    }

    /// How many numbers the parameters hold together.
    pub fn count(&self) -> usize {
        self.named().iter().map(|(_, value)| value.dims().iter().product::<usize>()).sum()
    }
}

/// Whether a parameter is a norm or a bias: it has one dimension in Hugging Face files, and no product reads it.
pub(crate) fn is_vector(name: &str) -> bool {
    name.ends_with("norm.weight") || name.ends_with(".bias")
}

/// Whether a parameter chooses among experts. It stays in f32 where other matrices are rounded: another choice is another
/// model.
pub(crate) fn is_router(name: &str) -> bool {
    name.ends_with(feed_forward::ROUTER)
}

fn block_name(layer: usize, name: &str) -> String {
    format!("model.layers.{layer}.{name}")
}
