"""Learning from preferences: DPO and its variants, reward models.

Files, in reading order:

    preference_losses.py      DPO, IPO, KTO, ORPO, SimPO and the loss of reward models: equations
    preference_batches.py     batches of pairs, and of labelled answers
    preference_sets.py        preferences to tokens and batches
    reference_log_probs.py    log-probabilities of the model before, computed once
    preference_objective.py   these losses of a model on a batch
    preference_scores.py      accuracy, margins and rewards on held-out preferences
    preference_tuning.py      tuning on preferences: `finetune_preferences`
    reward_model_loading.py   reward models from folders
    answer_samples.py         length and divergence of sampled answers
    preference_plan.py        cost and checks of preference tuning, before anything runs
    stage.py                  the stage 07-preference
"""
