"""12. Fine-tuning: from a model that continues text to one that answers.

    read_stats.py               what was read, dropped and changed, with file and line
    turn_checks.py              checks and repairs of the order of turns
    unnamed_file.py             a temporary file for what is larger than memory should be
    conversation_store.py       a conversation, and many of them in a file
    conversation_trees.py       trees of messages as conversations
    dialogue_files.py           ChatterBot's YAML and gettext catalogues
    conversations.py            conversations from files, and the validation split
    preference_data.py          preferences and labelled answers from files
    template_messages.py        messages in the form that a chat template takes, and whether it can be trained with
    chat_batches.py             conversations to batches, loss on the assistant's tokens; variants of user turns
    long_conversations.py       conversations beyond the sequence length: dropped, cut or split
    encoded_conversations.py    conversations as tokens, in a temporary file
    training_set.py             conversations and their tokens, as they are learnt
    seq2seq.py                  the same for an encoder-decoder, such as translation
    translation.py              scores of translations and summaries
    finetune_task.py            which of the two a model learns
    finetune_plan.py            cost and checks of fine-tuning [base], before anything runs
    lora.py                     low-rank adapters
    trainable_base.py           the base model of a stage, in the dtype that the method trains
    sft.py                      supervised fine-tuning: `finetune`
    preference_losses.py        DPO, IPO, KTO, ORPO, SimPO and the loss of reward models: equations
    response_log_probs.py       log-probabilities of the response tokens of a batch, for losses on whole responses
    preference_batches.py       batches of pairs, and of labelled answers
    preference_sets.py          preferences to tokens and batches
    reference_log_probs.py      log-probabilities of the model before, computed once
    preference_objective.py     these losses of a model on a batch
    preference_scores.py        accuracy, margins and rewards on held-out preferences
    preference_tuning.py        tuning on preferences: `finetune_preferences`
    answer_samples.py           length and divergence of sampled answers
    answer_advantages.py        rewards of a group of answers to advantages: GRPO, Dr. GRPO, RLOO
    policy_gradient.py          clipped policy gradient, KL to the reference
    sandboxed_program.py        a process that can only compute
    code_sandbox.py             unit tests of programs that the model has written, in it
    rewards.py                  rewards that a program can verify
    problems.py                 problems from files
    rollouts.py                 groups of answers that the model samples
    rollout_batches.py          batches that the model itself makes, and their loss
    reinforcement.py            learning from rewards: `finetune_reinforcement`
    reinforcement_plan.py       what that will read, before anything runs
    reinforcement_cost.py       time and memory of it
    reinforcement_stage.py      the stage 08-reinforcement
    example_sources.py          pairs of texts and labelled texts from files
    input_check.py              both of these sources, read before anything runs
    passage_pairs.py            pairs of passages of the training text
    contrastive.py              embeddings for search: InfoNCE with in-batch negatives
    classification.py           labels
    example_tasks.py            both of them: `finetune_embeddings`, `finetune_classifier`
    stage.py                    the stage 06-chat
    preference_plan.py          cost and checks of preference tuning, before anything runs
    preference_stage.py         the stage 07-preference

Not here: a loop (chapter 10 has it).

The names below are imported on first use: `conversations` must be importable without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundup.finetune.answer_advantages import group_advantages as group_advantages
    from groundup.finetune.chat_batches import ChatBatches as ChatBatches
    from groundup.finetune.classification import load_classifier as load_classifier
    from groundup.finetune.conversation_store import TrainingConversation as TrainingConversation
    from groundup.finetune.conversations import read_conversations as read_conversations
    from groundup.finetune.example_tasks import finetune_classifier as finetune_classifier
    from groundup.finetune.example_tasks import finetune_embeddings as finetune_embeddings
    from groundup.finetune.lora import apply_lora as apply_lora
    from groundup.finetune.policy_gradient import policy_loss as policy_loss
    from groundup.finetune.policy_gradient import reference_kl as reference_kl
    from groundup.finetune.preference_data import LabelledAnswer as LabelledAnswer
    from groundup.finetune.preference_data import Preference as Preference
    from groundup.finetune.preference_data import read_labelled_answers as read_labelled_answers
    from groundup.finetune.preference_data import read_preferences as read_preferences
    from groundup.finetune.preference_tuning import PreferenceResult as PreferenceResult
    from groundup.finetune.preference_tuning import finetune_preferences as finetune_preferences
    from groundup.finetune.reinforcement import finetune_reinforcement as finetune_reinforcement
    from groundup.finetune.response_log_probs import masked_log_probs as masked_log_probs
    from groundup.finetune.response_log_probs import masked_log_probs_and_entropy as masked_log_probs_and_entropy
    from groundup.finetune.rewards import Problem as Problem
    from groundup.finetune.rewards import exact_answer as exact_answer
    from groundup.finetune.rollouts import sample_groups as sample_groups
    from groundup.finetune.sft import FinetuneResult as FinetuneResult
    from groundup.finetune.sft import finetune as finetune

_LAZY_IMPORTS = {
    "ChatBatches": "chat_batches",
    "FinetuneResult": "sft",
    "LabelledAnswer": "preference_data",
    "Preference": "preference_data",
    "PreferenceResult": "preference_tuning",
    "TrainingConversation": "conversation_store",
    "Problem": "rewards",
    "apply_lora": "lora",
    "exact_answer": "rewards",
    "finetune": "sft",
    "finetune_classifier": "example_tasks",
    "finetune_embeddings": "example_tasks",
    "finetune_preferences": "preference_tuning",
    "load_classifier": "classification",
    "finetune_reinforcement": "reinforcement",
    "group_advantages": "answer_advantages",
    "masked_log_probs": "response_log_probs",
    "masked_log_probs_and_entropy": "response_log_probs",
    "policy_loss": "policy_gradient",
    "read_conversations": "conversations",
    "read_labelled_answers": "preference_data",
    "read_preferences": "preference_data",
    "reference_kl": "policy_gradient",
    "sample_groups": "rollouts",
}

__all__ = [
    "ChatBatches",
    "FinetuneResult",
    "LabelledAnswer",
    "Preference",
    "PreferenceResult",
    "Problem",
    "TrainingConversation",
    "apply_lora",
    "exact_answer",
    "finetune",
    "finetune_classifier",
    "finetune_embeddings",
    "finetune_preferences",
    "finetune_reinforcement",
    "group_advantages",
    "load_classifier",
    "masked_log_probs",
    "masked_log_probs_and_entropy",
    "policy_loss",
    "read_conversations",
    "read_labelled_answers",
    "read_preferences",
    "reference_kl",
    "sample_groups",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY_IMPORTS[name]}"), name)
