"""The words and sentences of the stories, in the notation of `tinyllama.data.grammar`.

A story is a child, a place, a wish that fits the place, a trouble that comes with the wish, an attempt that fails, and
a helper or an idea that fits the trouble. Every place brings its own wishes, every wish its own troubles, and every
trouble its own ways out, so that what follows depends on what was said, mostly on the sentence before.

Two options of one choice never begin alike: the next words always tell which option was taken.
"""

from tinyllama.data.grammar import Option

GIRL = {"child": "girl", "name": "{girl's name}", "he": "she", "He": "She", "his": "her", "him": "her"}
BOY = {"child": "boy", "name": "{boy's name}", "he": "he", "He": "He", "his": "his", "him": "him"}

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
    "trait": ["little", "brave", "curious", "quiet", "clever", "young", "lively", "patient", "stubborn", "bold", "shy",
              "busy"],
    "weather": [Option("sunny", weight=2), Option("warm", weight=2), "bright", "calm", "fresh", "grey", "mild",
                "lovely", "quiet", "golden"],
    "day": [Option("morning", weight=2), Option("afternoon", weight=2), "day", "Saturday", "Sunday", "Friday",
            "Monday"],
    "went": [Option("went", weight=2), Option("ran", weight=2), "walked", "hurried", "skipped", "came", "raced"],
    "company": [Option(" with {his} {friend}", weight=3), Option(" in {his} {coat color} {coat}", weight=2)],
    "friend": ["dog", "cat", "puppy", "friend", "cousin", "brother", "sister", "neighbor"],
    "coat": ["coat", "hat", "scarf", "boots"],
    "coat color": ["red", "blue", "green", "yellow", "white", "brown", "pink", "black"],
    "wanted": [Option("wanted", weight=2), "hoped", "longed", "had come", "was eager", "planned"],
    "But": [Option("But", weight=3), Option("Sadly", weight=2), "Yet", "That day"],
    "pause": [      # between an attempt and the way out, with the space behind it
        Option("", weight=2),
        Option("{He} [felt|looked|was] {mood}. ", weight=3),
        "{name} [sighed|frowned|groaned|waited]. ",
    ],
    "mood": ["sad", "cross", "gloomy", "puzzled", "tired", "worried", "unhappy", "upset"],
    "then": [Option("Then", weight=3), Option("At last", weight=2), Option("Luckily", weight=2), "Later"],
    "someone": ["a {kind} [farmer|sailor|teacher|baker|gardener|giant|king|queen]"],
    "bird": ["a {kind} [owl|crow|robin]"],
    "kind": ["kind", "friendly", "gentle", "cheerful", "wise", "merry", "clever", "brave"],
    "idea": [Option("", weight=3), "had [an|a new|a clever|a better] idea. {He} "],
    "Soon": [Option("Soon", weight=3), Option("Now", weight=2), "And so", "Before long"],
    "closing": [
        Option(" {name} [smiled|sang|hummed|whistled|danced|laughed] all the way home.", weight=2),
        " It was a [happy|lucky|wonderful|lovely|great|fine] [day|adventure|surprise].",
        " That night {he} [slept well|dreamed of it|sang to the moon|lay awake and smiled].",
        " What a [happy|lucky|wonderful|lovely|great|fine] [child|day|ending]!",
        " {He} [never forgot|often remembered|always loved] that day.",
    ],
    "color": [Option("red", weight=2), Option("blue", weight=2), "green", "yellow", "white", "brown", "pink", "black"],
    "relative": ["mother", "father", "grandmother", "grandfather", "aunt", "uncle"],

    # ---- attempts that several troubles share

    "effort": ["", " twice", " three times", " for hours", " all day"],
    "jumped": ["[jumped|climbed|reached]{effort}, but touched only [leaves|air|dust|wood]"],
    "called": ["[called|whistled|clapped|sang]{effort}"],
    "searched": ["looked{effort}, but found only [dust|sand|a button|a mouse]"],
    "shook it": ["[pulled|pushed|shook|kicked] it{effort}"],

    # ---- places, each with its wishes, and wishes, each with its troubles and its goal

    "place": [
        Option("orchard", wish="pick some [ripe|sweet|red|fine] {fruit}", trouble="{orchard trouble}",
               goal="{he} [sat|rested|lay] in the grass and [ate|shared|tasted] them"),
        Option("lake", wish="{lake wish}"),
        Option("hill", wish="fly {his} {color} kite", trouble="the {color} kite {kite trouble}",
               goal="it was [high|dancing] [in the sky|over the hill|in the wind]"),
        Option("farm", wish="[feed|pet|visit] the {farm animal}", trouble="the {farm animal} {farm trouble}",
               goal="it [ate from|licked|smelled] {his} [hand|coat|face]"),
        Option("kitchen", wish="bake a {treat} for {his} {relative}", trouble="{kitchen trouble}",
               goal="{he} [ate|tasted|had] [two|three|four|five] pieces"),
        Option("garden", wish="grow a {color} {flower}", trouble="the {color} {flower} {flower trouble}",
               goal="it [opened|danced|stood] in the [sun|wind|garden]"),
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
    "lake wish": [
        Option("sail {his} {color} boat", trouble="the {color} boat {boat trouble}",
               goal="it [sailed|danced|turned] [on the lake|over the waves|in the wind]"),
        Option("catch a [big|huge|tall|giant] fish", trouble="{fish trouble}",
               goal="a fish [danced|swam|jumped] in {his} [bucket|hat|boots]"),
    ],
    "fruit": ["apples", "pears", "plums", "cherries"],
    "farm animal": ["lamb", "pony", "goat", "calf"],
    "wild animal": ["deer", "fox", "rabbit", "bear"],
    "treat": ["cake", "pie", "loaf"],
    "treasure": ["drum", "clock", "map", "ring"],
    "flower": ["rose", "tulip", "daisy"],
    "ware": ["balloon", "ribbon", "hat", "ball"],
    "instrument": ["drum", "flute", "horn", "bell"],
    "subject": ["whales", "dragons", "stars", "trains"],

    # ---- troubles, each with an attempt that fails and the ways out

    "orchard trouble": [
        "the {fruit} hung too high. {name} {jumped}. {pause}{then} "
        "[{someone} lifted {him} up|{he} {idea}[fetched|found|borrowed] a [ladder|stool|stick]].",
        "a basket of {fruit} was too heavy. {name} {shook it}, but it did not move. {pause}{then} "
        "[{someone} carried it|{he} {idea}rolled it on a [cart|log]].",
    ],
    "boat trouble": [
        "drifted away. {name} {called}, but it did not come back. {pause}{then} "
        "[{someone} brought it back|{he} {idea}caught it with a [rope|stick|net]].",
        "had a hole. {name} filled it with [wood|leaves|grass], but the water came in. {pause}{then} "
        "[{someone} fixed it|{he} {idea}closed it with [wax|butter|honey]].",
    ],
    "fish trouble": [
        "there was no worm left. {name} tried [bread|honey|cake], but no fish came. {pause}{then} "
        "[{someone} gave {him} one|{he} {idea}found one under a [log|stone|cart]].",
    ],
    "kite trouble": [
        "flew into a tree. {name} [shook|kicked|climbed] the tree{effort}, but it stayed there. {pause}{then} "
        "[{bird} brought it back|{he} {idea}caught it with a [rope|stick|net]].",
        "lost its string. {name} used [grass|hay|leaves], but it broke. {pause}{then} "
        "[{someone} gave {him} one|{he} {idea}used a [ribbon|rope|scarf]].",
    ],
    "farm trouble": [
        "hid behind the [barn|hay|cart]. {name} {called}, but it stayed there. {pause}{then} "
        "[{someone} brought it out|{he} {idea}held out some [cake|bread|hay]].",
    ],
    "kitchen trouble": [
        "there was no [flour|butter|sugar|honey] for the {treat}. {name} {searched}. {pause}{then} "
        "[{someone} gave {him} some|{he} {idea}bought some at the [market|farm]].",
    ],
    "flower trouble": [
        "was too dry. {name} {called}, but nothing grew. {pause}{then} "
        "[{someone} brought water|{he} {idea}fetched water in a [bucket|hat|shell]].",
    ],
    "attic trouble": [
        "a chest with the {treasure} was locked. {name} {shook it}, but it did not open. {pause}{then} "
        "[{someone} opened it|{he} {idea}found the key in a [hat|coat|book]].",
    ],
    "forest trouble": [
        "was afraid. {name} {called}, but it did not come out. {pause}{then} "
        "[{bird} told {him} to wait|{he} {idea}hid behind a [log|tree|stone]].",
        "was far away. {name} turned [left|right|back], but found only [trees|leaves|stones]. {pause}{then} "
        "[{bird} showed {him} the way|{he} {idea}followed the [river|sun|stars]].",
    ],
    "market trouble": [
        "cost one coin too much. {name} {searched}. {pause}{then} "
        "[{someone} gave {him} one|{he} {idea}sold {his} [ring|ball|cake] for one].",
    ],
    "river trouble": [
        "was [gone|broken|closed]. {name} {called}, but nobody came. {pause}{then} "
        "[{someone} carried {him} over|{he} {idea}crossed on a [log|rope|boat]].",
    ],
    "school trouble": [
        "made no sound. {name} {shook it}, but nothing came. {pause}{then} "
        "[{someone} fixed it|{he} {idea}found a [mouse|button|feather] inside].",
    ],
    "beach trouble": [
        "a wave broke it. {name} built it again, but the next wave was bigger. {pause}{then} "
        "[{someone} dug a hole|{he} {idea}moved away from the [sea|water|waves]].",
    ],
    "library trouble": [
        "the book about {subject} was too high. {name} {jumped}. {pause}{then} "
        "[{someone} lifted {him} up|{he} {idea}[fetched|found|borrowed] a [ladder|stool|stick]].",
        "the words about {subject} were too long. {name} tried{effort}, but they made no sense. {pause}{then} "
        "[{someone} read them to {him}|{he} {idea}looked at the pictures first].",
    ],
}
