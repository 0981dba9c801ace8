"""The words and sentences of the stories, in the notation of `tinyllama.data.grammar`.

A story is a child, a place, a wish that fits the place, a trouble that comes with the wish, perhaps an attempt that
fails, and a helper or an idea that fits the trouble. Every place brings its own wishes, every wish its own troubles,
and every trouble its own ways out, so that what follows depends on what was said, mostly on the sentence before.

Two options of one choice never begin alike: the next words always tell which option was taken.
"""

from tinyllama.data.grammar import Option

GIRL = {"name": "{girl's name}", "he": "she", "He": "She", "his": "her", "him": "her"}
BOY = {"name": "{boy's name}", "he": "he", "He": "He", "his": "his", "him": "him"}

STORY = {
    "start": ["{opening} {He} {wanted} to {wish}. {But} {trouble} {Soon} {goal}.{closing}"],

    # ---- who, when, and the words between the sentences

    "opening": [
        Option("One {weather} {day} a {trait} {hero} {went} to the {place}{company}.", weight=3),
        Option("Once a {trait} {hero} {went} to the {place}{company}."),
    ],
    "hero": [Option("girl named {girl's name}", **GIRL), Option("boy named {boy's name}", **BOY)],
    "girl's name": ["Mia", "Lily", "Anna", "Rosa", "Nora", "Ella", "Ruby", "Clara", "Zoe", "Amina"],
    "boy's name": ["Ben", "Tom", "Max", "Leo", "Sam", "Finn", "Noah", "Omar", "Jack", "Ravi"],
    "trait": ["little", "brave", "curious", "clever", "patient", "stubborn", "shy", "busy"],
    "weather": [Option("sunny", weight=2), Option("warm", weight=2), "bright", "calm", "grey", "quiet", "golden"],
    "day": [Option("morning", weight=2), Option("afternoon", weight=2), "day", "Saturday", "Sunday"],
    "went": [Option("went", weight=2), Option("ran", weight=2), "walked", "hurried", "came"],
    "company": [Option("", weight=4), Option(" with {his} {friend}", weight=3)],
    "friend": ["dog", "cat", "friend", "cousin", "brother", "sister"],
    "wanted": [Option("wanted", weight=2), "hoped", "longed", "had come", "planned"],
    "But": [Option("But", weight=3), Option("Sadly", weight=2), "Yet", "That day"],
    "pause": [      # between an attempt and the way out, with the space behind it
        Option("", weight=5),
        Option("{He} [felt|looked|was] {mood}. ", weight=3),
        "{name} [sighed|frowned|groaned|waited]. ",
    ],
    "mood": ["sad", "cross", "puzzled", "tired", "worried", "unhappy"],
    "then": [Option("Then", weight=3), Option("At last", weight=2), Option("Luckily", weight=2), "Later"],
    "someone": ["a {kind} [farmer|sailor|baker|giant|king|queen]"],
    "bird": ["a {kind} [owl|crow|robin]"],
    "kind": ["kind", "friendly", "gentle", "cheerful", "wise", "merry"],
    "idea": [Option("", weight=3), "had [an|a new|a clever|a better] idea. {He} "],
    "Soon": [Option("Soon", weight=3), Option("Now", weight=2), "And so", "Before long"],
    "closing": [
        Option("", weight=4),
        Option(" {name} [smiled|sang|hummed|whistled|danced|laughed] all the way home.", weight=2),
        " It was a [happy|lucky|wonderful|lovely|great|fine] [day|adventure|surprise].",
        " That night {he} [slept well|dreamed of it|sang to the moon|lay awake and smiled].",
        " What a [happy|lucky|wonderful|lovely|great|fine] [child|day|ending]!",
        " {He} [never forgot|often remembered|always loved] that day.",
    ],
    "color": [Option("red", weight=2), Option("blue", weight=2), "green", "yellow", "white", "black"],
    "relative": ["mother", "father", "grandmother", "grandfather", "aunt", "uncle"],

    # ---- an attempt that fails; what is tried depends on the trouble

    "attempt": [Option("", weight=2), Option("{name} {tried}. {pause}", weight=3)],
    "effort": [Option("", weight=4), " twice", " three times", " for hours", " all day"],
    "jumped": ["[jumped|climbed|reached]{effort}, but touched only [leaves|air|dust|wood]"],
    "called": ["[called|whistled|clapped|sang]{effort}"],
    "searched": ["looked{effort}, but found only [dust|sand|a button|a mouse]"],
    "shook it": ["[pulled|pushed|shook|kicked] it{effort}"],

    # ---- places, each with its wishes, and wishes, each with its troubles and its goal

    "place": [
        Option("orchard", wish="pick some [ripe|sweet|red|fine] {fruit}", trouble="{orchard trouble}",
               goal="{he} [sat|rested|lay] in the grass and [ate|shared|tasted] them"),
        Option("lake", wish="sail {his} {color} boat", trouble="the {color} boat {boat trouble}",
               goal="it [sailed|danced|turned] [on the lake|over the waves|in the wind]"),
        Option("hill", wish="fly {his} {color} kite", trouble="the {color} kite {kite trouble}",
               goal="it was [high|dancing] [in the sky|over the hill|in the wind]"),
        Option("farm", wish="[feed|pet|visit] the {farm animal}", trouble="the {farm animal} {farm trouble}",
               goal="it [ate from|licked|smelled] {his} [hand|coat|face]"),
        Option("kitchen", wish="bake a {treat} for {his} {relative}", trouble="{kitchen trouble}",
               goal="{he} [ate|tasted|had] [two|three|four|five] pieces"),
        Option("attic", wish="find the old {treasure}", trouble="{attic trouble}",
               goal="{he} found it [under|behind] a [hat|coat|scarf|book]"),
        Option("forest", wish="see the [shy|wild|grey] {wild animal}", trouble="the {wild animal} {forest trouble}",
               goal="it [stepped|ran|came] out of the [grass|trees|leaves]"),
        Option("market", wish="buy a {color} {ware}", trouble="the {color} {ware} {market trouble}",
               goal="{he} [held|had|carried] it at last"),
        Option("river", wish="visit {his} {relative} on the other side",
               trouble="the bridge to {his} {relative} {river trouble}",
               goal="they [ate|had|shared] [soup|cake|bread|tea]"),
        Option("school", wish="play the {instrument} in the [show|concert]",
               trouble="the {instrument} {school trouble}",
               goal="everyone [clapped|cheered|danced|sang]"),
        Option("beach", wish="build a [big|huge|tall|giant] castle", trouble="{beach trouble}",
               goal="the castle stood there with a [flag|feather|shell|star] on top"),
        Option("library", wish="read a book about {subject}", trouble="{library trouble}",
               goal="{he} knew [a lot|everything|ten new things]"),
    ],
    "fruit": ["apples", "pears", "plums", "cherries"],
    "farm animal": ["lamb", "pony", "goat", "calf"],
    "wild animal": ["deer", "fox", "rabbit", "bear"],
    "treat": ["cake", "pie", "loaf"],
    "treasure": ["drum", "clock", "map", "ring"],
    "ware": ["balloon", "ribbon", "hat", "ball"],
    "instrument": ["drum", "flute", "horn", "bell"],
    "subject": ["whales", "dragons", "stars", "trains"],

    # ---- troubles, each with what is tried and the ways out

    "orchard trouble": [
        Option("the {fruit} hung too high. {attempt}{then} "
               "[{someone} lifted {him} up|{he} {idea}[fetched|found|borrowed] a [ladder|stool|stick]].",
               tried="{jumped}"),
        Option("a basket of {fruit} was too heavy. {attempt}{then} "
               "[{someone} carried it|{he} {idea}rolled it on a [cart|log]].",
               tried="{shook it}, but it did not move"),
    ],
    "boat trouble": [
        Option("drifted away. {attempt}{then} "
               "[{someone} brought it back|{he} {idea}caught it with a [rope|stick|net]].",
               tried="{called}, but it did not come back"),
    ],
    "kite trouble": [
        Option("flew into a tree. {attempt}{then} "
               "[{bird} brought it back|{he} {idea}caught it with a [rope|stick|net]].",
               tried="[shook|kicked|climbed] the tree{effort}, but it stayed there"),
    ],
    "farm trouble": [
        Option("hid behind the [barn|hay|cart]. {attempt}{then} "
               "[{someone} brought it out|{he} {idea}held out some [cake|bread|hay]].",
               tried="{called}, but it stayed there"),
    ],
    "kitchen trouble": [
        Option("there was no [flour|butter|sugar|honey] for the {treat}. {attempt}{then} "
               "[{someone} gave {him} some|{he} {idea}bought some at the [market|farm]].",
               tried="{searched}"),
    ],
    "attic trouble": [
        Option("a chest with the {treasure} was locked. {attempt}{then} "
               "[{someone} opened it|{he} {idea}found the key in a [hat|coat|book]].",
               tried="{shook it}, but it did not open"),
    ],
    "forest trouble": [
        Option("was afraid. {attempt}{then} "
               "[{bird} told {him} to wait|{he} {idea}hid behind a [log|tree|stone]].",
               tried="{called}, but it did not come out"),
    ],
    "market trouble": [
        Option("cost one coin too much. {attempt}{then} "
               "[{someone} gave {him} one|{he} {idea}sold {his} [ring|ball|cake] for one].",
               tried="{searched}"),
    ],
    "river trouble": [
        Option("was [gone|broken|closed]. {attempt}{then} "
               "[{someone} carried {him} over|{he} {idea}crossed on a [log|rope|boat]].",
               tried="{called}, but nobody came"),
    ],
    "school trouble": [
        Option("made no sound. {attempt}{then} "
               "[{someone} fixed it|{he} {idea}found a [mouse|button|feather] inside].",
               tried="{shook it}, but nothing came"),
    ],
    "beach trouble": [
        Option("a wave broke it. {attempt}{then} "
               "[{someone} dug a hole|{he} {idea}moved away from the [sea|water|waves]].",
               tried="built it again, but the next wave was bigger"),
    ],
    "library trouble": [
        Option("the book was too high. {attempt}{then} "
               "[{someone} lifted {him} up|{he} {idea}[fetched|found|borrowed] a [ladder|stool|stick]].",
               tried="{jumped}"),
    ],
}
