"""The words of docs/simulator.md that no measurement changes. Numbers come from tables (simulator_page.py)."""

from __future__ import annotations

INTRO = """\
# How far the embedded simulator is from the game

The simulator replaces StarCraft II under SMAC's interface. It copies what can be copied exactly, takes every number
from the game's data files where they name one, and has to choose where the engine is not public. This page says which
is which, and how far the result is from what others have published about the real game. Nothing here uses DM2 or its
results. The page and its tables are written by a rule, see the end.

In short:
"""

EXACT = """\
## 1. What is exact

Observations, state, availability, visibility, rewards and the ends of battles follow SMAC's code. `dm2 check-encoding`
replays recordings of SMAC's own class (tests/data/golden_smac) through ours and compares every entry:
"""

UNITS = """\
The recordings hold unit data and SMAC's answers to it; they say nothing about how units move and fight. For that the
unit table is the one of the mod the maps depend on, Liberty.SC2Mod at SC2 4.10.1 (SC2GameData, not the ladder's values;
16 game loops are a game second, 8 loops an env step):
"""

PLACES = """\
Also from files, not chosen: shields grow by 2 a second after 10 s without damage; damage takes shields first and life
less armor then, at least 0.5 a hit; walkable cells, spawn points (9, 16) and (23, 16) and the enemies' one order, to
attack-move to (9, 16), are those of the .SC2Map archives; limits, sight 9, shooting range 6 and the scales of the
vectors are SMAC's. [units_and_maps.yaml](../dm2core/env/units_and_maps.yaml) names the numbers' sources. Measured in
play, to show that these numbers arrive:
"""

PUBLISHED = """\
## 2. Against published numbers of the real game

"Alike" means that our 95 % interval touches the published range, widened by a slack
([smac_facts.yaml](../resources/smac_facts.yaml)) because the published policies are not our scripts. The slack was set
when first results were known, so trust the gap more than the word. Battles differ only by the random delay of each
shot, and an interval is the noise of that delay; the error of our choices is larger (section 6).
"""

PUBLISHED_READING = """\
How to read this. A marine battle can return no more than 20, a battle against shields can: these rows test the reward
and the regeneration, given a script that farms; on 2s3z none of ours does. The heuristic is the same script on both
sides, which would be the strongest test; but its win rates hang on the start cluster (section 6) and the published ones
are quoted from memory, so agreement there is weaker than it looks. The other rows set somebody's trained team beside
our script: that lengths and returns of lost and won battles come out near theirs says that speed, range and damage
fit together; that an expert team wins sooner than our kiting script says more about the script.
"""

IPPO = """\
## 3. IPPO against the paper's IPPO

IPPO in the `authors` profile, with the paper's budget and the first of its seeds, on the paper's five maps. First env
step at which the win rate, averaged over five evaluations (the paper's over its seeds, too), reaches 0.2 and 0.5; final
is the mean of the last tenth; most time-outs is their largest share in one evaluation. The paper's numbers are read
from its figures ([paper_curves](../resources/paper_curves/README.md)). One seed says little of the next: the campaign
ran IPPO with five to ten on each of them, to its budgets ([results.md](results.md)), and on 3s_vs_4z, where this one
wins nothing, one of five ends at 0.94.
"""

SCRIPTS = """\
## 4. Scripted policies on all maps

What to expect from simple play. `random`: uniform over legal actions. `stand`: stop. `attack_nearest`: walk to the
nearest enemy, attack it. `focus_fire`: attack the weakest on offer. `smac_heuristic`: SMAC's `heuristic_ai`, the
nearest enemy until it is dead. `hide`: walk away. `kite`: shoot when ready, else keep away; made for stalkers,
senseless for marines. `farm`, `farm_then_kite`: section 5. "Regrown" is the part of the return paid while shields grow.
"""

SCRIPTS_READING = """\
For random play on SMAC v1 no published return was found; that it never wins is common experience. The nearest
published return is that of {map}: {published}.
"""

SHIELDS = """\
## 5. Shields: farming and hiding

SMAC pays the absolute value of the damage of a step. A step in which the zealots' shields grow back pays as well, up to
1 point of health and shield per zealot. A team that breaks shields, runs, waits and breaks them again is paid twice and
need not win. `farm_then_kite` does that for a share of the time limit and then kites; `farm` is share 1. Section 4 has
share {share:g}.
"""

SHIELDS_READING = """\
So returns above 20 and battles that use up their time follow from SMAC's reward and the game's regeneration, and occur
here as they do there. How often is less certain: the share of random actions is ours to pick, one of eight that fits
was enough for "alike", and the published figures are few and second hand. What trained policies do in the game cannot
be known without it.
"""

WEAK = """\
Weak play looks different: it provokes zealots, cannot hold them, and either dies or runs until time is up. The kiting
script with a share of random actions stands in for a policy that is half trained:
"""

CHOICES = """\
## 6. What our choices change

Each row changes one thing by data (the kernel is the same) and plays a script on each of six maps, with a tenth of
random actions: without them a script replays nearly one battle, which any change turns over. Entries are the change of
the mean return; a star marks changes outside their 95 % interval.
"""

CLUSTER = """\
The cluster is the one large unknown. We keep the reading of the maintainers' words that favours neither team, and do
not fit it to the heuristic's win rates: several clusters could match them.
"""

NOT_FLIPPED = """\
Not flipped here, because it is in the kernel: the enemies' order of preference (in reach, then whoever attacks it, then
the nearest), and steering. Player guides describe that preference, no file does. The largest change above does not
bound what these are worth, least of all where teams are alike (2s3z, 3s5z).
"""

# what differs, in the real game or unknown; which way it moves battles
DEPARTURES = (
    (
        "which of the equally near spots a unit starts on",
        "unknown in both directions; the largest effect there is (section 6)",
    ),
    (
        "units act one after the other within a loop, allies first",
        "allies win a tie of shots; instant weapons never waste a shot in the same loop",
    ),
    (
        "units that touch start to walk one after the other, so the rear ones turn out of line in the first step",
        "slows a clump in its first step, by up to what section 1 shows",
    ),
    (
        "steering is by turns of 30 degrees and waiting; the game plans paths and moves groups",
        "crowds jam more, melee units most: easier for stalkers, harder for zealots",
    ),
    (
        "the wind-up runs while the rest of the weapon period elapses",
        "fire a little faster than if it followed the period: zealots have none, so stalkers gain",
    ),
    (
        "no step after the target during backswing",
        "kiting is a little easier than if zealots followed at once",
    ),
    (
        "a new order cuts wind-up and backswing short; the same attack again, which SMAC orders every step, changes "
        "nothing",
        "shooting and running is a little easier than if a swing had to be finished; a wind-up begun anew every step "
        "would delay shots",
    ),
    (
        "turning delays a shot, never a walk",
        "running away costs nothing; half a turn takes three loops of 0.0625 s",
    ),
    (
        "the second hit of an attack lands whatever its attacker was ordered meanwhile, and wherever the two are then",
        "hit and run is too easy for zealots that are agents (2s3z, 3s5z); an enemy's stands for longer than that",
    ),
    (
        "enemies prefer whoever attacks them to the nearest; a chase ends when someone comes in reach, or after the "
        "chaser was held up for 8 loops",
        "unknown; it decides which side focuses better on symmetric maps",
    ),
    (
        "an enemy chases a target that it saw for as long as it sees it; one that was attacked, until its target is 21 "
        "cells from where that was; then it returns to its march",
        "on maps of 32 cells the 21 are rarely met",
    ),
    (
        "marchers that run into one who has arrived have arrived too, within 3 cells of the goal",
        "none where somebody fights",
    ),
    (
        "only the delay of each shot is random; the engine's other uses of its seed are unknown",
        "battles may vary less than the game's; open-loop play is easier",
    ),
    (
        "idle friends are pushed aside, enemies never; no acceleration (the data say 1000, at once)",
        "small",
    ),
    ("cliffs are straight lines at the cell flags", "none seen: units rarely reach them"),
    (
        "the enemy is the engine's attack-move; the difficulty level has no effect",
        "none, if the maintainers are right (oxwhirl/smac issues 18 and 39)",
    ),
    (
        "every battle starts in the same state; in the game enemies may have moved for up to one loop after a reset",
        "none to speak of",
    ),
    (
        "enemy ids keep their order; in the game they may change between episodes",
        "slightly easier for policies that learn by slot",
    ),
    (
        "SMAC's mis-scaled reward after a second reset before the first battle has ended is not copied",
        "none, where a battle is finished first",
    ),
)

UNKNOWN = """\
What cannot be known without the game: the start cluster, the preference among targets, how a crowd of zealots closes
in, and whether battles vary by more than the delay of shots. One recorded battle of the real game with raw unit
positions per loop would settle the first three.
"""
