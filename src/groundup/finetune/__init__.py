"""12. Fine-tuning: from a model that continues text to one that answers.

    training_data/             conversations, preferences, problems, pairs and labels from files
    template_messages.py       messages in the form that a chat template takes, and whether it can be trained with
    chat_batches.py            conversations to batches, loss on the assistant's tokens; variants of user turns
    long_conversations.py      conversations beyond the sequence length: dropped, cut or split
    encoded_conversations.py   conversations as tokens, in a temporary file
    training_set.py            conversations and their tokens, as they are learnt
    seq2seq.py                 the same for an encoder-decoder, such as translation
    translation.py             scores of translations and summaries
    finetune_task.py           which of the two a model learns
    tuning_memory.py           memory of a method's training
    finetune_plan.py           cost and checks of fine-tuning [base], before anything runs
    lora.py                    low-rank adapters
    tuning_options.py          options that all methods share, and what each method trains
    trainable_base.py          the base model of a stage, in the dtype that the method trains
    distillation.py            predictions of a larger model as targets
    sft.py                     supervised fine-tuning: `finetune`
    contrastive.py             embeddings for search: InfoNCE with in-batch negatives
    classification.py          labels
    example_tasks.py           both of them: `finetune_embeddings`, `finetune_classifier`
    stage.py                   the stage 06-chat
    response_log_probs.py      log-probabilities of the response tokens of a batch, for losses on whole responses
    preference/                learning from preferences: DPO, IPO, KTO, ORPO, SimPO, reward models
    reinforcement/             learning from rewards: GRPO, Dr. GRPO, RLOO

Not here: a loop (chapter 10 has it).

The names below are imported on first use: `conversations` must be importable without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundup.finetune.chat_batches import ChatBatches as ChatBatches
    from groundup.finetune.classification import load_classifier as load_classifier
    from groundup.finetune.example_tasks import finetune_classifier as finetune_classifier
    from groundup.finetune.example_tasks import finetune_embeddings as finetune_embeddings
    from groundup.finetune.lora import LoRAOptions as LoRAOptions
    from groundup.finetune.lora import apply_lora as apply_lora
    from groundup.finetune.preference.preference_tuning import PreferenceResult as PreferenceResult
    from groundup.finetune.preference.preference_tuning import finetune_preferences as finetune_preferences
    from groundup.finetune.preference.reward_model_loading import load_reward_model as load_reward_model
    from groundup.finetune.reinforcement.answer_advantages import group_advantages as group_advantages
    from groundup.finetune.reinforcement.policy_gradient import policy_loss as policy_loss
    from groundup.finetune.reinforcement.policy_gradient import reference_kl as reference_kl
    from groundup.finetune.reinforcement.reinforcement import finetune_reinforcement as finetune_reinforcement
    from groundup.finetune.reinforcement.rewards import Problem as Problem
    from groundup.finetune.reinforcement.rewards import exact_answer as exact_answer
    from groundup.finetune.reinforcement.rollouts import sample_groups as sample_groups
    from groundup.finetune.response_log_probs import masked_log_probs as masked_log_probs
    from groundup.finetune.response_log_probs import masked_log_probs_and_entropy as masked_log_probs_and_entropy
    from groundup.finetune.sft import FinetuneResult as FinetuneResult
    from groundup.finetune.sft import finetune as finetune
    from groundup.finetune.training_data.conversation_store import TrainingConversation as TrainingConversation
    from groundup.finetune.training_data.conversations import read_conversations as read_conversations
    from groundup.finetune.training_data.preference_data import LabelledAnswer as LabelledAnswer
    from groundup.finetune.training_data.preference_data import Preference as Preference
    from groundup.finetune.training_data.preference_data import read_labelled_answers as read_labelled_answers
    from groundup.finetune.training_data.preference_data import read_preferences as read_preferences
    from groundup.finetune.tuning_options import TuningOptions as TuningOptions

_LAZY_IMPORTS = {
    "ChatBatches": "chat_batches",
    "FinetuneResult": "sft",
    "LoRAOptions": "lora",
    "LabelledAnswer": "training_data.preference_data",
    "Preference": "training_data.preference_data",
    "PreferenceResult": "preference.preference_tuning",
    "TuningOptions": "tuning_options",
    "TrainingConversation": "training_data.conversation_store",
    "Problem": "reinforcement.rewards",
    "apply_lora": "lora",
    "exact_answer": "reinforcement.rewards",
    "finetune": "sft",
    "finetune_classifier": "example_tasks",
    "finetune_embeddings": "example_tasks",
    "finetune_preferences": "preference.preference_tuning",
    "load_classifier": "classification",
    "load_reward_model": "preference.reward_model_loading",
    "finetune_reinforcement": "reinforcement.reinforcement",
    "group_advantages": "reinforcement.answer_advantages",
    "masked_log_probs": "response_log_probs",
    "masked_log_probs_and_entropy": "response_log_probs",
    "policy_loss": "reinforcement.policy_gradient",
    "read_conversations": "training_data.conversations",
    "read_labelled_answers": "training_data.preference_data",
    "read_preferences": "training_data.preference_data",
    "reference_kl": "reinforcement.policy_gradient",
    "sample_groups": "reinforcement.rollouts",
}

__all__ = [
    "ChatBatches",
    "FinetuneResult",
    "LabelledAnswer",
    "LoRAOptions",
    "Preference",
    "PreferenceResult",
    "Problem",
    "TrainingConversation",
    "TuningOptions",
    "apply_lora",
    "exact_answer",
    "finetune",
    "finetune_classifier",
    "finetune_embeddings",
    "finetune_preferences",
    "finetune_reinforcement",
    "group_advantages",
    "load_classifier",
    "load_reward_model",
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
