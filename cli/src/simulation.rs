//! A small model under training: FP32 masters, Adam, weights cast to BF16 after every step.
//!
//! Gradients are noise around a slow drift, as in reinforcement learning at a small learning
//! rate: what matters for patches is that Adam's update is about the learning rate whatever the
//! scale of a weight, and that most updates vanish when a weight is cast.

use std::io::{self, Write};
use std::path::Path;
use std::thread;

/// Adam's first moment decays by this per step.
const BETA1: f32 = 0.9;
/// Parameters that one thread initialises or steps at a time.
const CHUNK: usize = 1 << 20;

/// One matrix or vector: masters and Adam's normalised first moment.
#[derive(Debug)]
struct Parameter {
    name: String,
    shape: Vec<usize>,
    master: Vec<f32>,
    moment: Vec<f32>,
    /// Weights of a norm start at one; all others around zero.
    norm: bool,
}

/// The model and its optimizer.
#[derive(Debug)]
pub struct Simulation {
    parameters: Vec<Parameter>,
    learning_rate: f32,
    seed: u64,
    steps: u64,
}

/// SplitMix64: small, seedable, good enough for noise.
#[derive(Debug)]
pub struct Noise(pub u64);

impl Noise {
    /// A stream of its own for each purpose, so that results do not depend on threads.
    fn new(parts: [u64; 4]) -> Self {
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        for part in parts {
            noise.0 ^= part.wrapping_mul(0xd6e8_feb8_6659_fd93);
            noise.draw();
        }
        noise
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// About normal, mean 0 and variance 1: the sum of four uniform numbers.
    pub fn normal(&mut self) -> f32 {
        let bits = self.draw();
        let sum = (0..4).map(|i| ((bits >> (16 * i)) & 0xffff) as i32).sum::<i32>() - 2 * 0xffff;
        sum as f32 * (1.0 / 37_837.0)
    }
}

impl Simulation {
    /// A transformer of about `parameters` parameters.
    pub fn new(parameters: usize, learning_rate: f32, seed: u64) -> Self {
        // A layer has 12 width^2 parameters; twelve layers keep the shape of a small model.
        let layers = 12;
        let width = (((parameters / (12 * layers)) as f64).sqrt() as usize / 16 * 16).max(16);
        let mut simulation = Simulation { parameters: Vec::new(), learning_rate, seed, steps: 0 };
        for layer in 0..layers {
            let prefix = format!("model.layers.{layer}");
            for matrix in ["q_proj", "k_proj", "v_proj", "o_proj"] {
                simulation.add(format!("{prefix}.self_attn.{matrix}.weight"), &[width, width]);
            }
            simulation.add(format!("{prefix}.mlp.up_proj.weight"), &[4 * width, width]);
            simulation.add(format!("{prefix}.mlp.down_proj.weight"), &[width, 4 * width]);
            simulation.add(format!("{prefix}.input_layernorm.weight"), &[width]);
            simulation.add(format!("{prefix}.post_attention_layernorm.weight"), &[width]);
        }
        simulation.add("model.norm.weight".into(), &[width]);
        simulation.for_each_chunk(|noise, master, moment, norm, width| {
            let scale = 1.0 / (width as f32).sqrt();
            for (master, moment) in master.iter_mut().zip(moment) {
                *master = if norm { 1.0 + 0.1 * noise.normal() } else { scale * noise.normal() };
                // The spread that the moment of pure noise settles at.
                *moment = ((1.0 - BETA1) / (1.0 + BETA1)).sqrt() * noise.normal();
            }
        });
        simulation
    }

    fn add(&mut self, name: String, shape: &[usize]) {
        let size = shape.iter().product();
        let norm = shape.len() == 1;
        self.parameters.push(Parameter {
            name,
            shape: shape.into(),
            master: vec![0.0; size],
            moment: vec![0.0; size],
            norm,
        });
    }

    /// Runs `work` on chunks of all parameters, with noise that depends on the place and step only.
    fn for_each_chunk(
        &mut self,
        work: impl Fn(&mut Noise, &mut [f32], &mut [f32], bool, usize) + Sync,
    ) {
        let (seed, steps) = (self.seed, self.steps);
        let mut chunks = Vec::new();
        for (p, parameter) in self.parameters.iter_mut().enumerate() {
            let (norm, width) = (parameter.norm, *parameter.shape.last().unwrap_or(&1));
            let pieces = parameter.master.chunks_mut(CHUNK).zip(parameter.moment.chunks_mut(CHUNK));
            chunks.extend(pieces.enumerate().map(|(c, (master, moment))| {
                (Noise::new([seed, steps, p as u64, c as u64]), master, moment, norm, width)
            }));
        }
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let share = chunks.len().div_ceil(threads).max(1);
        thread::scope(|scope| {
            for share in chunks.chunks_mut(share) {
                let work = &work;
                scope.spawn(move || {
                    share.iter_mut().for_each(|(noise, master, moment, norm, width)| {
                        work(noise, master, moment, *norm, *width)
                    })
                });
            }
        });
    }

    /// One optimizer step.
    pub fn step(&mut self) {
        self.steps += 1;
        let rate = self.learning_rate;
        self.for_each_chunk(|noise, master, moment, _, _| {
            for (master, moment) in master.iter_mut().zip(moment) {
                *moment = BETA1 * *moment + (1.0 - BETA1) * noise.normal();
                *master -= rate * *moment;
            }
        });
    }

    /// Writes the weights as BF16 safetensors.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut sorted: Vec<&Parameter> = self.parameters.iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        let (mut json, mut begin) = (String::from("{\"__metadata__\":{\"format\":\"pt\"}"), 0);
        for parameter in &sorted {
            let end = begin + 2 * parameter.master.len();
            let (name, shape) = (&parameter.name, &parameter.shape);
            json.push_str(&format!(
                ",\"{name}\":{{\"dtype\":\"BF16\",\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}}"
            ));
            begin = end;
        }
        json.push('}');
        json.push_str(&" ".repeat(json.len().next_multiple_of(8) - json.len()));
        let mut file = io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
        file.write_all(&(json.len() as u64).to_le_bytes())?;
        file.write_all(json.as_bytes())?;
        for parameter in sorted {
            for &master in &parameter.master {
                file.write_all(&half::bf16::from_f32(master).to_le_bytes())?;
            }
        }
        file.flush()
    }
}
