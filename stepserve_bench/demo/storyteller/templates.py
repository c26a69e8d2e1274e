"""Sentence templates of the little stories.

In a template `{name}` stands for a rule of `RULES` or for a slot of `lexicon.SLOTS`, and `[ ... ]`
for a part that may be left out. An alternative that is listed twice is drawn twice as often.
"""

RULES: dict[str, tuple[str, ...]] = {
    # Starting points.
    "Story": ("{ShortStory}", "{MiddleStory}", "{MiddleStory}"),
    "ShortStory": ("{Opening} {Moment} The end.",),
    "MiddleStory": ("{Opening}[ {Trait}][ {Daily}] {Plot}[ {Evening}] {Ending} The end.",),
    "LongStory": ("{Opening} {Trait} {Daily} {Plot} {Evening} {Ending} The end.",),
    "LostStory": ("{Opening}[ {Trait}] {Lost} {Ending} The end.",),
    "SkillStory": ("{Opening}[ {Trait}] {Learning} {Ending} The end.",),
    "Chat": (
        "{Request}\n{Story}",
        "{Request}\n{Story}",
        "{ShortRequest}\n{ShortStory}",
        "{LongRequest}\n{LongStory}",
        "{LostRequest}\n{LostStory}",
        "{SkillRequest}\n{SkillStory}",
    ),
    # Bits of sentences that hold little but variables, out of order; for practice, never told.
    "Drill": (
        "Here are {hero} the {animal}, {friend} the {kin}, a {thing}, the {weather} and "
        "how to {skill}. {Bits}[ {Bits}]",
    ),
    "Bits": ("{Bit} {Bit} {Bit} {Bit} {Bit}", "{Bit} {Bit} {Bit} {Bit} {Bit} {Bit} {Bit}"),
    "Bit": (
        "Thank you, {friend} the {kin}!",
        "how kind {friend} the {kin}",
        "brought {friend} a {thing}",
        "better than {friend}",
        "named {hero} the {animal}",
        "Do not worry, {hero}.",
        "I am {hero}, and",
        "cried {hero} the {animal}",
        "could not find {his} {thing}",
        "found the {thing}",
        "asked {him}",
        "gave {friend_him}",
        "Now I can {skill}!",
        "wanted to {skill}",
        "When the {weather} was over, {friend_he}",
        "afraid of the {weather}",
    ),
    # What a reader asks for.
    "Request": ("{Ask} a story{Subject}.", "Can you tell me a story{Subject}?"),
    "ShortRequest": ("{Ask} a short story{Subject}.", "Can you tell me a short story{Subject}?"),
    "LongRequest": ("{Ask} a long story{Subject}.", "Can you tell me a long story{Subject}?"),
    "LostRequest": ("{Ask} a story about {an_animal} named {hero} who lost {his} {thing}.",),
    "SkillRequest": ("{Ask} a story about {an_animal} named {hero} who wanted to {skill}.",),
    "Ask": ("Tell me", "Please tell me", "I would like to hear", "Write"),
    "Subject": (
        " about {an_animal} named {hero}",
        " about {an_animal} named {hero}",
        " about {an_animal} named {hero}",
        " about {an_animal}",
        " about {hero}",
        "",
    ),
    # Who the hero is.
    "Opening": (
        "Once upon a time, there was {Kind} {animal} named {hero}.",
        "Once upon a time, {Kind} {animal} named {hero} lived {Home}.",
        "There once was {Kind} {animal} named {hero} who lived {Home}.",
        "This is the story of {hero}, {Kind} {animal} who lived {Home}.",
        "One {Time}, {Kind} {animal} named {hero} went for a walk {Place}.",
        "Long ago, {Kind} {animal} named {hero} lived {Home}.",
    ),
    "Kind": (
        "a little",
        "a brave",
        "a shy",
        "a clever",
        "a sleepy",
        "a cheerful",
        "a curious",
        "an old",
        "a gentle",
        "a very small",
    ),
    "Home": (
        "in a cosy house under an oak tree",
        "in a tiny cottage with a red door",
        "in a hollow log",
        "in a burrow full of books",
        "at the end of a winding path",
        "behind the blue hills",
        "in a boat on the lake",
    ),
    "Time": ("sunny morning", "autumn day", "quiet afternoon", "winter evening", "spring morning"),
    "Trait": (
        "{He} loved {Treat} more than anything in the world.",
        "{His} favourite thing was a {Colour} {thing}.",
        "Everybody knew {him} for {his} {Quality}.",
        "{hero} was always {Mood} when the sun came up.",
    ),
    "Place": (
        "by the river",
        "in the meadow",
        "at the edge of the forest",
        "on the hill",
        "near the old mill",
        "beside the pond",
        "in the garden",
        "at the market",
    ),
    "Treat": (
        "honey cake",
        "apple pie",
        "berry jam",
        "warm soup",
        "nut bread",
        "carrot stew",
        "plum tart",
        "ginger tea",
    ),
    "Colour": ("red", "blue", "green", "yellow", "silver", "golden"),
    "Quality": ("kind heart", "loud laugh", "soft voice", "good ideas", "big dreams"),
    "Mood": ("happy", "hungry", "cheerful", "a bit sleepy", "ready for an adventure"),
    "Daily": (
        "Every morning {he} had a cup of tea and looked out of the window.",
        "Every day {hero} swept the floor and fed the birds.",
        "In the mornings {he} liked to read, and in the evenings {he} liked to count the stars.",
    ),
    # One small thing that happens, for the short stories.
    "Moment": (
        "One day {he} found a {Colour} {thing} {Place} and took it home.[ {Glad}]",
        "{He} made {Treat} for all {his} neighbours, and {Everyone} was happy.",
        "One night {he} saw a falling star and wished for {Treat}.[ {Wish}]",
        "One {Time}, {he} met {a_kin} named {friend}, and they became friends.[ {Play}]",
        "Nobody thought that {he} could {skill}, but {he} practised every day.[ {Could}]",
    ),
    "Glad": ("It made {hero} smile every day.", '"How lucky I am!" said {hero}.'),
    "Wish": ("In the morning, there it was on the table.", '"I can wait," said {hero}.'),
    "Play": ("They played {Place} until it was dark.", "{hero} was never lonely again."),
    "Could": ('"Now I can {skill}!" cried {hero}.', "In the end, {hero} could do it very well."),
    "Everyone": ("everyone", "even the grumpy crow"),
    # Plots of several sentences.
    "Plot": ("{Lost}", "{Meeting}", "{Learning}", "{Storm}", "{Gift}"),
    "Lost": ("One day, {hero} could not find {his} {thing}.[ {Worry}] {Search} {Help} {Found}",),
    "Worry": (
        '"Oh no, where is my {thing}?" cried {hero}.',
        "{He} felt very sad and did not know what to do.",
        "{hero} looked under the bed, but there was only dust.",
    ),
    "Search": (
        "{He} looked {Place}, but it was not there.",
        "{hero} searched all day {Place}.",
    ),
    "Help": (
        'Then {friend} the {kin} came by and said, "{Offer}"',
        '{a_friend} named {friend} heard {him} and asked, "{Question}"',
    ),
    "a_friend": ("A kind {kin}", "A friendly {kin}", "A wise {kin}"),
    "Offer": ("Let me help you look!", "Two of us will find it faster.", "Do not worry, {hero}."),
    "Question": ("What are you looking for?", "Why are you so sad, {hero}?"),
    "Found": (
        "Together they found the {thing} {Spot}.[ {Thanks}]",
        "At last {friend} saw the {thing} {Spot}.[ {Thanks}]",
    ),
    "Spot": (
        "under a big leaf",
        "behind a stone",
        "in a bird's nest",
        "on top of a fence",
        "inside an old boot",
    ),
    "Thanks": (
        '"Thank you, {friend}!" said {hero}.',
        '"You are the best friend in the world," said {hero}.',
        "{hero} gave {friend} a big hug.",
    ),
    "Meeting": (
        "But {hero} was lonely and wished for a friend. {Meet}[ {Hello}] {Share}[ {Thanks}]",
    ),
    "Meet": (
        "One {Time}, {he} met {a_kin} named {friend} {Place}.",
        "One day, {a_kin} named {friend} knocked at the door.",
    ),
    "Hello": (
        '"Hello, I am {friend}," said the {kin}.[ "{Reply}" said {hero}.]',
        '"Would you like to play with me?" asked {hero}. "{Yes}" said {friend}.',
    ),
    "Reply": ("I am {hero}, and I am glad to meet you,", "What a lovely name,"),
    "Yes": ("Yes, I would love to!", "Oh yes, please!"),
    "Share": (
        "They shared {Treat} and talked for hours.",
        "{friend} had brought {Treat}, and {hero} had a {thing} to play with.",
        "They ran {Place} and laughed until their bellies hurt.",
    ),
    "Learning": (
        "More than anything, {hero} wanted to {skill}.[ {Fail}] {Teacher}[ {Practice}] {Success}",
    ),
    "Fail": (
        "{He} tried and tried, but it did not work.",
        '"I will never learn it," {he} said with a sigh.',
        "The crows laughed at {him}, and {he} went home in tears.",
    ),
    "Teacher": (
        '"I can teach you to {skill}," said {friend} the {kin}.',
        "One day {he} asked {a_kin} named {friend} for help.",
    ),
    "Practice": (
        "They practised {Place} every day, even in the {weather}.",
        "{friend} showed {him} how to begin, and {hero} did the same.",
        'It was hard, but {friend} always said, "Try once more, {hero}!"',
    ),
    "Success": (
        "After a week, {hero} could {skill} better than {friend}.",
        'One morning it worked, and {hero} cried, "Look, I can {skill}!"',
    ),
    "Storm": (
        "One night, there was {weather} all around the house. {Knock}[ {Inside}] {Warm}[ {Calm}]",
    ),
    "Knock": (
        "{hero} heard a knock, and there stood {a_kin} named {friend}.",
        'Outside, {a_kin} named {friend} was calling, "Please help me!"',
    ),
    "Inside": (
        '"Come in, come in!" said {hero}.[ "{Cold}" said {friend}.]',
        "{hero} opened the door and gave {friend_him} a warm blanket.",
    ),
    "Cold": ("I am so cold,", "I was afraid of the {weather},", "You are very kind,"),
    "Warm": (
        "They sat by the fire and ate {Treat}.",
        "{friend} dried {friend_his} feet, and {hero} made {Treat}.",
    ),
    "Calm": (
        "When the {weather} was over, {friend_he} did not want to leave.",
        "In the morning the {weather} was gone, and the sky was blue.",
    ),
    "Gift": ("It was the birthday of {friend} the {kin}. {Plan}[ {Making}] {Giving}[ {Joy}]",),
    "Plan": (
        '"What can I give {friend_him}?" thought {hero}.',
        "{hero} wanted to give {friend_him} something special.",
    ),
    "Making": (
        "{He} worked all day and painted a {thing} {Colour}.",
        "{He} went to look for a {thing} {Place}.",
    ),
    "Giving": (
        'In the evening {he} brought {friend} a {thing} and said, "Happy birthday!"',
        "{hero} put the {thing} in a box and gave it to {friend}.",
    ),
    "Joy": (
        '"A {thing}! It is just what I wanted," said {friend}.',
        "{friend} was so happy that {friend_he} danced around the room.",
    ),
    # How it ends.
    "Evening": (
        "When the moon came up, {hero} and {friend} made {Treat} together.",
        '"What a day!" said {friend}, and {hero} agreed.',
        "In the evening they sat {Place} and watched the stars.",
    ),
    "Ending": (
        "From that day on, {hero} and {friend} were best friends.",
        "{hero} went to bed with a happy heart.",
        "And {hero} never forgot how kind {friend} the {kin} had been.",
        "They still meet {Place} every Sunday.",
    ),
}
