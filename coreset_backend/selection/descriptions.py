"""What each strategy selects and when to use it, for ``coreset-backend strategies`` and the docs."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Description:
    """``selects``: the rule of a pick. ``use``: when the strategy is the right one. ``source``: the paper."""

    selects: str
    use: str
    source: str = ""


DESCRIPTIONS: dict[str, Description] = {
    "uncertainty_herding": Description(
        "Images that stand for many others that no label covers yet, and of which the model is unsure.",
        "The default, from the first labels on.",
        "Bae et al. 2025, Uncertainty Herding",
    ),
    "max_herding": Description(
        "Images that stand for many others that no label covers yet.",
        "The default of the first batch, when no model exists. Few labels, many images.",
        "Bae et al. 2024, Generalized Coverage",
    ),
    "k_center": Description(
        "The image farthest from every labelled and every selected image, again and again.",
        "No image may be far from a label: rare kinds matter more than common ones. Large budgets.",
        "Sener & Savarese 2018, algorithm 1",
    ),
    "k_center_cosine": Description(
        "The same by the angle between embeddings, whatever their length.",
        "Embeddings of your own whose length means nothing.",
        "Sener & Savarese 2018",
    ),
    "robust_k_center": Description(
        "A batch with a smaller largest distance than k_center's, leaving a few outliers uncovered.",
        "k_center spends labels on broken images. Takes up to a minute.",
        "Sener & Savarese 2018, algorithm 2",
    ),
    "annoy": Description(
        "Roughly what k_center selects, from the neighbours in the Annoy index alone.",
        "Pools of millions of images.",
    ),
    "margin": Description(
        "Images whose two likeliest classes are nearly as likely.",
        "Many labels are there, and the batch is small: it selects near-copies of one hard image.",
        "Scheffer et al. 2001",
    ),
    "entropy": Description(
        "Images whose probabilities are spread over the classes most evenly.",
        "As margin, with many classes.",
        "Shannon 1948; Settles 2009",
    ),
    "margin_k_center": Description(
        "Unsure images (four times the batch), and among them those far from each other.",
        "As margin, with large batches.",
    ),
    "weighted_k_center": Description(
        "The image with the largest product of distance and doubt.",
        "Between k_center and margin.",
        "Ramalingam et al. 2023",
    ),
    "badge": Description(
        "A random sample in which unsure images and images unlike each other are likelier.",
        "To compare with: it is what many papers compare with.",
        "Ash et al. 2020",
    ),
    "typiclust": Description(
        "The image in the densest place of each cluster.",
        "A very small first batch: about one image a class.",
        "Hacohen et al. 2022",
    ),
    "random": Description(
        "Any image, each as likely as any other.",
        "To compare with, and where the labels are needed for statistics too.",
    ),
}
