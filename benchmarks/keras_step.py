"""The training step of the preset `released` in Keras 3 on TensorFlow, for `equal_layers.py`; prints one JSON line.

Needs a Python that has tensorflow-cpu and keras, not vaekit's own. The layers are those of `networks.resnetv2` and
`networks.patchgan`, written with Keras' own: BatchNorm never runs in training mode, which leaves a learned scale and
shift, and LayerNormalization over the axes (1, 2) has one a position. The step is that of `training.step`: a step on
the VAE through the discriminator, then a step on the discriminator over real and reconstructed pictures together.
"""

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from keras import layers

CHANNELS, GRID_CHANNELS, LATENT_DIM, MIN_GRID = 128, 64, 512, 4
WEIGHTS = {"kl_global": 1.0, "kl_individual": 0.1, "l1": 5000.0, "realism": 100.0}


def pre_activation(x, layer):
    """[BatchNorm at its initial statistics, ReLU, layer]."""
    return layer(layers.ReLU()(layers.BatchNormalization()(x, training=False)))


def identity_block(x):
    residual = pre_activation(x, layers.Conv2D(CHANNELS, 3, padding="same"))
    residual = pre_activation(residual, layers.Conv2D(CHANNELS, 3, padding="same"))
    return x + pre_activation(residual, layers.Conv2D(CHANNELS, 1))


def downsampling_block(x):
    residual = pre_activation(x, layers.Conv2D(CHANNELS, 3, padding="same"))
    residual = pre_activation(residual, layers.Conv2D(CHANNELS, 3, padding="same"))
    residual = pre_activation(residual, layers.Conv2D(CHANNELS, 1, strides=2))
    return residual + pre_activation(x, layers.Conv2D(CHANNELS, 1, strides=2))


def upsampling_block(x, channels):
    residual = pre_activation(x, layers.Conv2D(channels, 1))
    residual = pre_activation(residual, layers.Conv2DTranspose(channels, 3, strides=2, padding="same"))
    return residual + pre_activation(x, layers.Conv2DTranspose(channels, 3, strides=2, padding="same"))


def make_encoder(size):
    x = image = layers.Input((size, size, 3))
    x = layers.LayerNormalization(axis=(1, 2))(x)
    x = layers.Conv2D(CHANNELS, 3, padding="same")(x)
    while x.shape[1] > MIN_GRID:
        x = downsampling_block(identity_block(identity_block(x)))
    features = layers.Flatten()(layers.Conv2D(GRID_CHANNELS, 1)(x))
    heads = [layers.Dense(LATENT_DIM, dtype="float32")(features) for _ in ("mean", "logvar")]
    return keras.Model(image, heads)


def make_decoder(size):
    z = layers.Input((LATENT_DIM,))
    x = layers.Dense(MIN_GRID * MIN_GRID * GRID_CHANNELS)(z)
    x = layers.Reshape((MIN_GRID, MIN_GRID, GRID_CHANNELS))(x)
    x = layers.Conv2D(CHANNELS, 3, padding="same")(x)
    while x.shape[1] < size:
        x = identity_block(x)
        x = upsampling_block(x, 3 if 2 * x.shape[1] == size else CHANNELS)
    return keras.Model(z, layers.Conv2D(3, 1)(x))


def make_discriminator(size):
    x = image = layers.Input((size, size, 3))
    for channels, strides in ((128, 2), (128, 2), (128, 2), (64, 1), (64, 1), (1, 1)):
        x = layers.Conv2D(channels, 3, strides=strides, padding="same")(x)
        x = layers.BatchNormalization()(x, training=False)
        if channels > 1:
            x = layers.LeakyReLU(0.3)(x)
    return keras.Model(image, x)


def cross_entropy(logits, label):
    """Mean binary cross-entropy of logits against one label."""
    logits = tf.cast(logits, "float32")
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.fill(tf.shape(logits), label), logits))


def vae_loss(x, x_hat, mean, logvar, logits):
    """Eq. 23 with the moments of the means: (B, H, W, 3) twice, (B, d) twice, (B, h, w, 1) -> one number."""
    global_mean = tf.reduce_mean(mean, 0)
    global_var = tf.reduce_mean(tf.square(mean - global_mean), 0)
    terms = {
        "kl_global": 0.5 * tf.reduce_sum(global_var + tf.square(global_mean) - 1 - tf.math.log(global_var)),
        "kl_individual": tf.reduce_mean(tf.reduce_sum(tf.exp(logvar) - 1 - logvar, 1)),
        "l1": tf.reduce_mean(tf.abs(tf.cast(x_hat, "float32") - x)),
        "realism": cross_entropy(logits, 1.0),
    }
    return sum(WEIGHTS[name] * term for name, term in terms.items())


def make_step(encoder, decoder, discriminator, xla):
    """A compiled function of x (B, H, W, 3) and eps (B, d): one step on either side."""
    vae_optimizer = keras.optimizers.Adam(1e-4, beta_1=0.5)
    discriminator_optimizer = keras.optimizers.Adam(1e-4, beta_1=0.5)
    vae_weights = encoder.trainable_variables + decoder.trainable_variables
    discriminator_weights = discriminator.trainable_variables
    vae_optimizer.build(vae_weights)
    discriminator_optimizer.build(discriminator_weights)

    def update(optimizer, tape, loss, weights):
        optimizer.apply(tape.gradient(loss, [weight.value for weight in weights]), weights)

    @tf.function(jit_compile=xla)
    def step(x, eps):
        with tf.GradientTape(watch_accessed_variables=False) as tape:  # not the discriminator's
            tape.watch([weight.value for weight in vae_weights])
            mean, logvar = encoder(x)
            x_hat = decoder(mean + eps * tf.exp(0.5 * logvar))
            loss = vae_loss(x, x_hat, mean, logvar, discriminator(x_hat))
        update(vae_optimizer, tape, loss, vae_weights)

        with tf.GradientTape() as tape:
            real, fake = tf.split(discriminator(tf.concat([x, tf.cast(x_hat, x.dtype)], 0)), 2)
            judged = WEIGHTS["realism"] * (cross_entropy(real, 1.0) + cross_entropy(fake, 0.0))
        update(discriminator_optimizer, tape, judged, discriminator_weights)
        return loss, judged

    return step


def step_seconds(step, size, batch, steps, warm_up):
    """Median seconds of a step."""
    x = tf.random.uniform((batch, size, size, 3), -1, 1)
    eps = tf.random.normal((batch, LATENT_DIM))
    seconds = []
    for _ in range(warm_up + steps):
        started_at = time.perf_counter()
        losses = [loss.numpy() for loss in step(x, eps)]
        seconds.append(time.perf_counter() - started_at)
    assert all(abs(loss) < float("inf") for loss in losses), losses
    return statistics.median(seconds[warm_up:])


def num_trainable(*models):
    return sum(int(tf.size(weight)) for model in models for weight in model.trainable_variables)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("size", 64), ("batch", 10), ("steps", 10), ("warm-up", 3), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--xla", action="store_true")
    options = parser.parse_args()

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.mixed_precision.set_global_policy({"fp32": "float32", "bf16": "mixed_bfloat16"}[options.precision])
    keras.utils.set_random_seed(0)
    encoder, decoder = make_encoder(options.size), make_decoder(options.size)
    discriminator = make_discriminator(options.size)
    result = {
        "vae": num_trainable(encoder, decoder),
        "discriminator": num_trainable(discriminator),
        "versions": f"Keras {keras.__version__}, TensorFlow {tf.__version__}",
    }
    if options.steps:
        step = make_step(encoder, decoder, discriminator, options.xla)
        result["step, s"] = step_seconds(step, options.size, options.batch, options.steps, options.warm_up)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
