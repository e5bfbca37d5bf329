"""The training stages, a row each: what is said of a stage before any of its code is imported.

The commands and their help, the public names, the kinds of rows, reports and setup.py read it, so it needs nothing but
the standard library. What a stage shows of its numbers goes by its family: easyrlhf/report/stage_view.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# Families: stages of one log the same numbers and show them alike.
SFT, RM, PPO, GRPO, EBFT = "sft", "rm", "ppo", "grpo", "ebft"
COMPARING, KTO, RRHF = "comparing", "kto", "rrhf"
ALIGNING = (COMPARING, KTO, RRHF)  # they learn from preferences without a reward model


@dataclass(frozen=True)
class Stage:
    """A row of the table.

    name       what --stage, stage.json and outputs/NAME call it; its command is NAME_train, its function train_NAME
    title      what people call it
    family     SFT, RM…
    rows       the kind of rows that it learns from, as data/kinds.py has them
    config     the class of its settings, in easyrlhf.config
    module     where its function is and, of an offline stage, its OfflineStage: the name in capitals
    about      its line in `easyrlhf --help`
    summary    the first line of its own help
    goes_in, comes_out, worth_a_look, follows
               what its help says below that; follows is the next command
    examples   commands to copy
    """

    name: str
    title: str
    family: str
    rows: str
    config: str
    module: str
    about: str
    summary: str
    goes_in: str
    comes_out: str
    worth_a_look: str
    follows: str
    examples: Sequence[str]

    @property
    def command(self) -> str:
        """The program of its own: sft_train."""
        return f"{self.name}_train"

    @property
    def function(self) -> str:
        """Its name in Python: train_sft."""
        return f"train_{self.name}"

    @property
    def target(self) -> str:
        """Where its function is, as `module:function`."""
        return f"{self.module}:{self.function}"


def preference_row(name: str, title: str, *, module: str = "preference", **words) -> Stage:
    """A row of a method that learns from preferences and leaves a policy; it compares two answers unless words differ.

    module  the one of easyrlhf.stages that holds it
    words   the entries that are its own
    """
    usual = {
        "family": COMPARING,
        "rows": "comparison",
        "config": f"{title}Config",
        "comes_out": f"outputs/{name}, the trained policy; report.html.",
        "follows": f"read answers of outputs/{name} beside those of its parent",
    }
    return Stage(name, title, module=f"easyrlhf.stages.{module}", **(usual | words))


PROMPTS_IN = (
    "Prompts (any file the other stages read will do), an SFT model, and a reward: the model of rm_train, Python "
    "functions, or both."
)
WITH_REFERENCE = "Comparisons (prompt, chosen, rejected), and an SFT model, which is also the reference."
WITHOUT_REFERENCE = "Comparisons (prompt, chosen, rejected), and an SFT model. There is no reference."

ROWS = (
    Stage(
        "sft",
        "Supervised fine-tuning",
        SFT,
        "demonstration",
        "SFTConfig",
        "easyrlhf.stages.sft",
        about="Supervised fine-tuning on demonstrations.",
        summary="Supervised fine-tuning: teach a model to answer by showing it answers.",
        goes_in="Demonstrations: rows of messages, of prompt and completion, alpaca or sharegpt. Only what the "
        "assistant says is trained on.",
        comes_out="outputs/sft, a Hugging Face checkpoint with its tokenizer, and report.html.",
        worth_a_look="eval/loss in report.html: when it rises while loss falls, stop earlier.",
        follows="rm_train --model outputs/sft --train_data comparisons.jsonl",
        examples=(
            "sft_train --train_data demos.jsonl",
            "sft_train --model Qwen/Qwen2.5-0.5B --train_data demos.jsonl --valid_data held_out.jsonl",
            "sft_train --train_data demos.jsonl --lora_r 16 --max_length 2048",
            "sft_train --config configs/sft.yaml --dry_run   # shows what would be done",
        ),
    ),
    Stage(
        "rm",
        "Reward model",
        RM,
        "comparison",
        "RMConfig",
        "easyrlhf.stages.rm",
        about="Reward model from comparisons.",
        summary="Reward model: learn from comparisons which of two answers people prefer.",
        goes_in="Comparisons: rows of prompt, chosen and rejected (hh-rlhf transcripts as they are). A margin column "
        "is used when there is one.",
        comes_out="outputs/rm: the model, its score head (value_head.safetensors), and report.html.",
        worth_a_look="eval/rewards/accuracies, against eval/length_baseline_accuracy: a model no better than that has "
        "learnt that longer is better.",
        follows="ppo_train --model outputs/sft --reward_model outputs/rm --train_data prompts.jsonl",
        examples=(
            "rm_train --train_data comparisons.jsonl --valid_data held_out.jsonl",
            "rm_train --model outputs/sft --train_data data/hh-rlhf/helpful-base/train.jsonl",
            "rm_train --train_data comparisons.jsonl --lora_r 16 --learning_rate 1e-4",
            "rm_train --config configs/rm.yaml --dry_run",
        ),
    ),
    Stage(
        "ppo",
        "PPO",
        PPO,
        "prompt",
        "PPOConfig",
        "easyrlhf.stages.online",
        about="PPO against a reward model or reward functions.",
        summary="PPO: let the model answer, score the answers, and make the better ones likelier.",
        goes_in=PROMPTS_IN,
        comes_out="outputs/ppo, the trained policy; its value model in value_model/; report.html.",
        worth_a_look="objective/scores should rise while objective/kl stays small (below about 10 to 20 nats). Scores "
        "that rise with KL and length are reward hacking: raise --kl_coef.",
        follows="read the samples before and after in outputs/ppo/report.html",
        examples=(
            "ppo_train --train_data prompts.jsonl          # with outputs/sft and outputs/rm in place",
            "ppo_train --model outputs/sft --reward_model outputs/rm --train_data prompts.jsonl",
            "ppo_train --train_data prompts.jsonl --reward_funcs my_rewards.py:is_short",
            "ppo_train --train_data prompts.jsonl --kl_coef 0.1 --kl_target 6 --lora_r 16",
            "ppo_train --config configs/ppo.yaml --dry_run",
        ),
    ),
    Stage(
        "grpo",
        "GRPO",
        GRPO,
        "prompt",
        "GRPOConfig",
        "easyrlhf.stages.online",
        about="GRPO, RLOO or REINFORCE++ against the same; no value model.",
        summary="GRPO, RLOO or REINFORCE++: answer each prompt several times, and make the better answers likelier.",
        goes_in=f"{PROMPTS_IN} No value model is needed.",
        comes_out="outputs/grpo, the trained policy; report.html.",
        worth_a_look="objective/scores should rise, and health/equal_groups stay below one half: a prompt whose "
        "answers all score the same has no advantage. beta is 0 by default, and no reference is held: measure_kl step "
        "shows how far the policy goes.",
        follows="read the samples before and after in outputs/grpo/report.html",
        examples=(
            "grpo_train --train_data prompts.jsonl         # with outputs/sft and outputs/rm in place",
            "grpo_train --train_data prompts.jsonl --reward_funcs my_rewards.py:is_short --num_generations 16",
            "grpo_train --train_data prompts.jsonl --advantage rloo --beta 0.05",
            "grpo_train --train_data prompts.jsonl --epsilon_high 0.28 --dynamic_sampling 3",
            "grpo_train --config configs/grpo.yaml --dry_run",
        ),
    ),
    Stage(
        "ebft",
        "EBFT",
        EBFT,
        "demonstration",
        "EBFTConfig",
        "easyrlhf.stages.online",
        about="EBFT: sampled answers are brought near demonstrations; no rewards.",
        summary="Energy-based fine-tuning: bring sampled answers, taken together, near demonstrations.",
        goes_in="Demonstrations, as sft_train reads them, and an SFT model, which is also the frozen model by whose "
        "states answers are compared. There are no rewards.",
        comes_out="outputs/ebft, the trained policy; report.html.",
        worth_a_look="ebft/cfm, the squared distance between answers and demonstrations, should fall, and "
        "ebft/diversity stay well below 1: at 1 all answers to a prompt are alike.",
        follows="read the samples before and after in outputs/ebft/report.html",
        examples=(
            "ebft_train --train_data demos.jsonl           # with outputs/sft in place",
            "ebft_train --model outputs/sft --train_data demos.jsonl --ce_coef 0.03",
            "ebft_train --train_data demos.jsonl --num_generations 8 --lora_r 16",
            "ebft_train --train_data texts.jsonl --ebft_mode stride --batch_size 1024",
            "ebft_train --config configs/ebft.yaml --dry_run",
        ),
    ),
    preference_row(
        "dpo",
        "DPO",
        about="DPO from comparisons; no reward model.",
        summary="Direct preference optimisation: learn from comparisons without a reward model.",
        goes_in=WITH_REFERENCE,
        worth_a_look="rewards/margins should rise while logps/chosen does not fall far: a fall of both sides is the "
        "usual trouble; --rpo_alpha 1 holds it up.",
        examples=(
            "dpo_train --train_data pairs.jsonl            # with outputs/sft in place",
            "dpo_train --model outputs/sft --train_data pairs.jsonl --valid_data held_out.jsonl --beta 0.05",
            "dpo_train --train_data pairs.jsonl --loss_type robust --label_smoothing 0.1",
            "dpo_train --train_data pairs.jsonl --rpo_alpha 1 --lora_r 16",
            "dpo_train --config configs/dpo.yaml --dry_run",
        ),
    ),
    preference_row(
        "ipo",
        "IPO",
        about="IPO from comparisons.",
        summary="Identity preference optimisation: DPO without its drive to certainty.",
        goes_in=WITH_REFERENCE,
        worth_a_look="the loss aims at a margin of 1 / (2 beta) nats a token between the mean log-ratios, and stops "
        "there.",
        examples=(
            "ipo_train --train_data pairs.jsonl            # with outputs/sft in place",
            "ipo_train --model outputs/sft --train_data pairs.jsonl --beta 0.5 --lora_r 16",
            "ipo_train --config configs/ipo.yaml --dry_run",
        ),
    ),
    preference_row(
        "kto",
        "KTO",
        module="kto",
        family=KTO,
        rows="feedback",
        about="KTO from single answers, liked or not.",
        summary="Kahneman-Tversky optimisation: learn from single answers that were liked or not.",
        goes_in="Answers with a label (prompt, completion, label), or comparisons, each of which counts as two; an SFT "
        "model.",
        worth_a_look="the start summary counts liked and disliked answers; when they differ much, it says which "
        "weights would fit.",
        examples=(
            "kto_train --train_data feedback.jsonl         # with outputs/sft in place",
            "kto_train --train_data pairs.jsonl --beta 0.1 --desirable_weight 1.33",
            "kto_train --config configs/kto.yaml --dry_run",
        ),
    ),
    preference_row(
        "orpo",
        "ORPO",
        about="ORPO from comparisons, from a base model.",
        summary="Odds-ratio preference optimisation: SFT and alignment in one stage, from a base model.",
        goes_in="Comparisons (prompt, chosen, rejected), and a base or SFT model. There is no reference.",
        worth_a_look="loss holds the SFT loss on chosen answers too; rewards/accuracies should rise above one half.",
        examples=(
            "orpo_train --model Qwen/Qwen2.5-0.5B --train_data pairs.jsonl",
            "orpo_train --train_data pairs.jsonl --beta 0.2 --lora_r 16",
            "orpo_train --config configs/orpo.yaml --dry_run",
        ),
    ),
    preference_row(
        "simpo",
        "SimPO",
        about="SimPO from comparisons; no reference.",
        summary="Simple preference optimisation: mean log-probabilities as rewards, no reference.",
        goes_in=WITHOUT_REFERENCE,
        worth_a_look="nothing but the learning rate keeps the policy near its start: watch logps/chosen and read "
        "samples.",
        examples=(
            "simpo_train --train_data pairs.jsonl          # with outputs/sft in place",
            "simpo_train --train_data pairs.jsonl --beta 2.5 --simpo_gamma 1.2 --cpo_alpha 1",
            "simpo_train --config configs/simpo.yaml --dry_run",
        ),
    ),
    preference_row(
        "cpo",
        "CPO",
        about="CPO from comparisons; no reference.",
        summary="Contrastive preference optimisation: DPO without a reference, beside an SFT loss.",
        goes_in=WITHOUT_REFERENCE,
        worth_a_look="the SFT loss on chosen answers (--cpo_alpha) is what keeps the policy near good text.",
        examples=(
            "cpo_train --train_data pairs.jsonl            # with outputs/sft in place",
            "cpo_train --train_data pairs.jsonl --cpo_alpha 0.5 --lora_r 16",
            "cpo_train --config configs/cpo.yaml --dry_run",
        ),
    ),
    preference_row(
        "rrhf",
        "RRHF",
        module="rrhf",
        family=RRHF,
        rows="ranking",
        about="RRHF from ranked answers.",
        summary="RRHF: rank several answers to a prompt by likelihood as their scores rank them.",
        goes_in="Rankings (prompt, completions, scores), or comparisons, each a ranking of two; an SFT model.",
        worth_a_look="rewards/accuracies, the share of pairs that likelihood ranks as the scores do, should rise.",
        examples=(
            "rrhf_train --train_data rankings.jsonl        # with outputs/sft in place",
            "rrhf_train --train_data pairs.jsonl --rrhf_weight 1 --length_penalty 1",
            "rrhf_train --config configs/rrhf.yaml --dry_run",
        ),
    ),
)
STAGES: dict[str, Stage] = {stage.name: stage for stage in ROWS}


def of_families(*families: str) -> tuple[str, ...]:
    """The names of their stages, family by family."""
    return tuple(stage.name for family in families for stage in ROWS if stage.family == family)
