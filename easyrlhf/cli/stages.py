"""The commands of the stages, `sft_train` to `rrhf_train`, and what their help says."""

from easyrlhf.cli.help_page import HelpPage
from easyrlhf.cli.options import SettingsCommand
from easyrlhf.config import TRAINING

PAGES = {
    "sft_train": HelpPage(
        summary="Supervised fine-tuning: teach a model to answer by showing it answers.",
        story=[
            (
                "Goes in",
                "Demonstrations: rows of messages, of prompt and completion, alpaca or sharegpt. "
                "Only what the assistant says is trained on.",
            ),
            (
                "Comes out",
                "outputs/sft, a Hugging Face checkpoint with its tokenizer, and report.html.",
            ),
            ("Worth a look", "eval/loss in report.html: when it rises while loss falls, stop earlier."),
            ("Next", "rm_train --model outputs/sft --train_data comparisons.jsonl"),
        ],
        examples=[
            "sft_train --train_data demos.jsonl",
            "sft_train --model Qwen/Qwen2.5-0.5B --train_data demos.jsonl --valid_data held_out.jsonl",
            "sft_train --train_data demos.jsonl --lora_r 16 --max_length 2048",
            "sft_train --config configs/sft.yaml --dry_run   # shows what would be done",
        ],
    ),
    "rm_train": HelpPage(
        summary="Reward model: learn from comparisons which of two answers people prefer.",
        story=[
            (
                "Goes in",
                "Comparisons: rows of prompt, chosen and rejected (hh-rlhf transcripts as they are). A "
                "margin column is used when there is one.",
            ),
            (
                "Comes out",
                "outputs/rm: the model, its score head (value_head.safetensors), and report.html.",
            ),
            (
                "Worth a look",
                "eval/rewards/accuracies, against eval/length_baseline_accuracy: a model no better "
                "than that has learnt that longer is better.",
            ),
            (
                "Next",
                "ppo_train --model outputs/sft --reward_model outputs/rm --train_data prompts.jsonl",
            ),
        ],
        examples=[
            "rm_train --train_data comparisons.jsonl --valid_data held_out.jsonl",
            "rm_train --model outputs/sft --train_data data/hh-rlhf/helpful-base/train.jsonl",
            "rm_train --train_data comparisons.jsonl --lora_r 16 --learning_rate 1e-4",
            "rm_train --config configs/rm.yaml --dry_run",
        ],
    ),
    "ppo_train": HelpPage(
        summary="PPO: let the model answer, score the answers, and make the better ones likelier.",
        story=[
            (
                "Goes in",
                "Prompts (any file the other stages read will do), an SFT model, and a reward: the "
                "model of rm_train, Python functions, or both.",
            ),
            (
                "Comes out",
                "outputs/ppo, the trained policy; its value model in value_model/; report.html.",
            ),
            (
                "Worth a look",
                "objective/scores should rise while objective/kl stays small (below about 10 to 20 "
                "nats). Scores that rise with KL and length are reward hacking: raise --kl_coef.",
            ),
            ("Next", "read the samples before and after in outputs/ppo/report.html"),
        ],
        examples=[
            "ppo_train --train_data prompts.jsonl          # with outputs/sft and outputs/rm in place",
            "ppo_train --model outputs/sft --reward_model outputs/rm --train_data prompts.jsonl",
            "ppo_train --train_data prompts.jsonl --reward_funcs my_rewards.py:is_short",
            "ppo_train --train_data prompts.jsonl --kl_coef 0.1 --kl_target 6 --lora_r 16",
            "ppo_train --config configs/ppo.yaml --dry_run",
        ],
    ),
    "grpo_train": HelpPage(
        summary="GRPO, RLOO or REINFORCE++: answer each prompt several times, and make the better answers likelier.",
        story=[
            (
                "Goes in",
                "Prompts (any file the other stages read will do), an SFT model, and a reward: the "
                "model of rm_train, Python functions, or both. No value model is needed.",
            ),
            ("Comes out", "outputs/grpo, the trained policy; report.html."),
            (
                "Worth a look",
                "objective/scores should rise, and health/equal_groups stay below one half: a prompt whose answers all "
                "score the same has no advantage. beta is 0 by default, and no reference is held: measure_kl step "
                "shows how far the policy goes.",
            ),
            ("Next", "read the samples before and after in outputs/grpo/report.html"),
        ],
        examples=[
            "grpo_train --train_data prompts.jsonl         # with outputs/sft and outputs/rm in place",
            "grpo_train --train_data prompts.jsonl --reward_funcs my_rewards.py:is_short --num_generations 16",
            "grpo_train --train_data prompts.jsonl --advantage rloo --beta 0.05",
            "grpo_train --train_data prompts.jsonl --epsilon_high 0.28 --dynamic_sampling 3",
            "grpo_train --config configs/grpo.yaml --dry_run",
        ],
    ),
    "dpo_train": HelpPage(
        summary="Direct preference optimisation: learn from comparisons without a reward model.",
        story=[
            (
                "Goes in",
                "Comparisons (prompt, chosen, rejected), and an SFT model, which is also the reference.",
            ),
            ("Comes out", "outputs/dpo, the trained policy; report.html."),
            (
                "Worth a look",
                "rewards/margins should rise while logps/chosen does not fall far: a fall of both sides "
                "is the usual trouble; --rpo_alpha 1 holds it up.",
            ),
            ("Next", "read answers of outputs/dpo beside those of its parent"),
        ],
        examples=[
            "dpo_train --train_data pairs.jsonl            # with outputs/sft in place",
            "dpo_train --model outputs/sft --train_data pairs.jsonl --valid_data held_out.jsonl --beta 0.05",
            "dpo_train --train_data pairs.jsonl --loss_type robust --label_smoothing 0.1",
            "dpo_train --train_data pairs.jsonl --rpo_alpha 1 --lora_r 16",
            "dpo_train --config configs/dpo.yaml --dry_run",
        ],
    ),
    "ipo_train": HelpPage(
        summary="Identity preference optimisation: DPO without its drive to certainty.",
        story=[
            (
                "Goes in",
                "Comparisons (prompt, chosen, rejected), and an SFT model, which is also the reference.",
            ),
            ("Comes out", "outputs/ipo, the trained policy; report.html."),
            (
                "Worth a look",
                "the loss aims at a margin of 1 / (2 beta) nats a token between the mean log-ratios, and stops there.",
            ),
            ("Next", "read answers of outputs/ipo beside those of its parent"),
        ],
        examples=[
            "ipo_train --train_data pairs.jsonl            # with outputs/sft in place",
            "ipo_train --model outputs/sft --train_data pairs.jsonl --beta 0.5 --lora_r 16",
            "ipo_train --config configs/ipo.yaml --dry_run",
        ],
    ),
    "kto_train": HelpPage(
        summary="Kahneman-Tversky optimisation: learn from single answers that were liked or not.",
        story=[
            (
                "Goes in",
                "Answers with a label (prompt, completion, label), or comparisons, each of which counts "
                "as two; an SFT model.",
            ),
            ("Comes out", "outputs/kto, the trained policy; report.html."),
            (
                "Worth a look",
                "the start summary counts liked and disliked answers; when they differ much, it says "
                "which weights would fit.",
            ),
            ("Next", "read answers of outputs/kto beside those of its parent"),
        ],
        examples=[
            "kto_train --train_data feedback.jsonl         # with outputs/sft in place",
            "kto_train --train_data pairs.jsonl --beta 0.1 --desirable_weight 1.33",
            "kto_train --config configs/kto.yaml --dry_run",
        ],
    ),
    "orpo_train": HelpPage(
        summary="Odds-ratio preference optimisation: SFT and alignment in one stage, from a base model.",
        story=[
            (
                "Goes in",
                "Comparisons (prompt, chosen, rejected), and a base or SFT model. There is no reference.",
            ),
            ("Comes out", "outputs/orpo, the trained policy; report.html."),
            (
                "Worth a look",
                "loss holds the SFT loss on chosen answers too; rewards/accuracies should rise above one half.",
            ),
            ("Next", "read answers of outputs/orpo beside those of its parent"),
        ],
        examples=[
            "orpo_train --model Qwen/Qwen2.5-0.5B --train_data pairs.jsonl",
            "orpo_train --train_data pairs.jsonl --beta 0.2 --lora_r 16",
            "orpo_train --config configs/orpo.yaml --dry_run",
        ],
    ),
    "simpo_train": HelpPage(
        summary="Simple preference optimisation: mean log-probabilities as rewards, no reference.",
        story=[
            (
                "Goes in",
                "Comparisons (prompt, chosen, rejected), and an SFT model. There is no reference.",
            ),
            ("Comes out", "outputs/simpo, the trained policy; report.html."),
            (
                "Worth a look",
                "nothing but the learning rate keeps the policy near its start: watch logps/chosen and read samples.",
            ),
            ("Next", "read answers of outputs/simpo beside those of its parent"),
        ],
        examples=[
            "simpo_train --train_data pairs.jsonl          # with outputs/sft in place",
            "simpo_train --train_data pairs.jsonl --beta 2.5 --simpo_gamma 1.2 --cpo_alpha 1",
            "simpo_train --config configs/simpo.yaml --dry_run",
        ],
    ),
    "cpo_train": HelpPage(
        summary="Contrastive preference optimisation: DPO without a reference, beside an SFT loss.",
        story=[
            (
                "Goes in",
                "Comparisons (prompt, chosen, rejected), and an SFT model. There is no reference.",
            ),
            ("Comes out", "outputs/cpo, the trained policy; report.html."),
            (
                "Worth a look",
                "the SFT loss on chosen answers (--cpo_alpha) is what keeps the policy near good text.",
            ),
            ("Next", "read answers of outputs/cpo beside those of its parent"),
        ],
        examples=[
            "cpo_train --train_data pairs.jsonl            # with outputs/sft in place",
            "cpo_train --train_data pairs.jsonl --cpo_alpha 0.5 --lora_r 16",
            "cpo_train --config configs/cpo.yaml --dry_run",
        ],
    ),
    "rrhf_train": HelpPage(
        summary="RRHF: rank several answers to a prompt by likelihood as their scores rank them.",
        story=[
            (
                "Goes in",
                "Rankings (prompt, completions, scores), or comparisons, each a ranking of two; an SFT model.",
            ),
            ("Comes out", "outputs/rrhf, the trained policy; report.html."),
            (
                "Worth a look",
                "rewards/accuracies, the share of pairs that likelihood ranks as the scores do, should rise.",
            ),
            ("Next", "read answers of outputs/rrhf beside those of its parent"),
        ],
        examples=[
            "rrhf_train --train_data rankings.jsonl        # with outputs/sft in place",
            "rrhf_train --train_data pairs.jsonl --rrhf_weight 1 --length_penalty 1",
            "rrhf_train --config configs/rrhf.yaml --dry_run",
        ],
    ),
}
TARGETS = {
    "sft_train": "easyrlhf.stages.sft:train_sft",
    "rm_train": "easyrlhf.stages.rm:train_rm",
    "ppo_train": "easyrlhf.stages.online:train_ppo",
    "grpo_train": "easyrlhf.stages.online:train_grpo",
    "dpo_train": "easyrlhf.stages.preference:train_dpo",
    "ipo_train": "easyrlhf.stages.preference:train_ipo",
    "kto_train": "easyrlhf.stages.kto:train_kto",
    "orpo_train": "easyrlhf.stages.preference:train_orpo",
    "simpo_train": "easyrlhf.stages.preference:train_simpo",
    "cpo_train": "easyrlhf.stages.preference:train_cpo",
    "rrhf_train": "easyrlhf.stages.rrhf:train_rrhf",
}


def __getattr__(name: str) -> SettingsCommand:
    """The command of a stage by its name, such as `sft_train`."""
    if name not in PAGES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return SettingsCommand(name, TRAINING[name.removesuffix("_train")], TARGETS[name], PAGES[name])
