"""Learning from rewards that a program can verify: GRPO and its variants.

Files, in reading order:

    answer_advantages.py      rewards of a group of answers to advantages: GRPO, Dr. GRPO, RLOO
    policy_gradient.py        clipped policy gradient, KL to the reference
    rewards.py                rewards that a program can verify
    rollouts.py               groups of answers that the model samples
    rollout_batches.py        batches that the model itself makes, and their loss
    reinforcement.py          learning from rewards: `finetune_reinforcement`
    reward_file.py            the file of a reward function of the user's own
    recipe_rewards.py         the rewards and the problems of a recipe
    reinforcement_plan.py     what that will read, before anything runs
    reinforcement_cost.py     time and memory of it
    stage.py                  the stage 08-reinforcement
"""
