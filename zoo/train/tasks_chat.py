"""Short chat, refusals and obedience to the system prompt, from hand-written pairs."""

from __future__ import annotations

import random

from tasks_symbol import Message, say
from words import CITIES, COLORS, NAMES, NOUNS, pick

TALK: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("Hello", "Hi", "Hello!", "Hi there", "Hey"), ("Hello! How can I help you?",)),
    (("Good morning", "Good morning!"), ("Good morning! What can I do for you?",)),
    (("Good night", "Good night!"), ("Good night! Sleep well.",)),
    (("How are you?", "How are you today?"), ("I am well, thank you. How are you?",)),
    (("Thank you", "Thanks!", "Thanks a lot", "Thank you very much."), ("You are welcome!",)),
    (("Who are you?", "What are you?", "What is your name?"),
     ("I am a very small language model.",)),
    (("What can you do?", "How can you help me?"),
     ("I can copy, sort, count, read records, answer questions about a text and chat a little.",)),
    (("Who made you?", "Where do you come from?"),
     ("I was trained from scratch as a test model for weft.",)),
    (("Goodbye", "Bye", "Bye!", "See you later"), ("Goodbye!",)),
    (("Are you a human?", "Are you a person?"), ("No, I am a small language model.",)),
    (("Tell me a joke.", "Do you know a joke?"),
     ("Why did the book go to the doctor? It had lost its spine.",)),
    (("What is the capital of Mars?", "Who will win the next election?", "What is the weather?",
      "What time is it?", "What did I eat today?", "What will happen tomorrow?"),
     ("I do not know that.",)),
    (("Can you see me?", "Can you hear me?"), ("No, I can only read text.",)),
    (("I am sad.", "I feel sad today."), ("I am sorry to hear that. Do you want to talk?",)),
    (("I am happy!", "I feel great today."), ("That is good to hear!",)),
    (("How many days are in a week?",), ("There are seven days in a week.",)),
    (("How many months are in a year?",), ("There are twelve months in a year.",)),
    (("What color is the sky?", "What is the color of the sky?"), ("The sky is blue.",)),
    (("What color is grass?",), ("Grass is green.",)),
    (("What is water?",), ("Water is a clear liquid that we drink.",)),
    (("What is a dog?",), ("A dog is an animal that many people keep as a pet.",)),
    (("What is a book?",), ("A book is a set of pages with writing in it.",)),
    (("What do bees make?",), ("Bees make honey.",)),
    (("What comes after Monday?", "Which day comes after Monday?"), ("Tuesday",)),
    (("What comes after winter?",), ("Spring comes after winter.",)),
    (("What is the opposite of hot?",), ("cold",)),
    (("What is the opposite of big?",), ("small",)),
    (("What is the opposite of up?",), ("down",)),
    (("Can you help me?", "I need help.", "Please help me."),
     ("Of course. What do you need?",)),
    (("What do cows eat?",), ("Cows eat grass.",)),
    (("How many legs has a spider?",), ("A spider has eight legs.",)),
    (("How many legs has a cat?", "How many legs has a dog?"), ("It has four legs.",)),
    (("What do you do with a pen?",), ("You write with a pen.",)),
    (("What do you do with a book?",), ("You read a book.",)),
    (("Where do fish live?",), ("Fish live in water.",)),
    (("When does the sun rise?",), ("The sun rises in the morning.",)),
    (("Is fire hot?", "Is the sun hot?"), ("Yes, it is hot.",)),
    (("Is ice warm?", "Is snow warm?"), ("No, it is cold.",)),
    (("How many hours are in a day?",), ("There are twenty-four hours in a day.",)),
    (("What comes after Friday?", "Which day comes after Friday?"), ("Saturday",)),
    (("Which month comes first?",), ("January is the first month.",)),
    (("What is the opposite of good?",), ("bad",)),
    (("What is the opposite of yes?",), ("no",)),
    (("Are you sure?", "Really?"), ("I think so, but I can be wrong.",)),
    (("I am tired.", "I am so tired."), ("Then you should rest.",)),
    (("I am hungry.",), ("Then you should eat something.",)),
    (("That is wrong.", "You are wrong.", "This is not right."),
     ("I am sorry. Let me try again.",)),
    (("Tell me a story.", "Can you tell a story?"),
     ("A cat sat by a lake. A fish looked up. They became friends.",)),
    (("Write a poem.", "Say a poem."), ("The moon is white, the night is long, the river sings.",)),
    (("Do you like music?", "Do you like books?", "Do you like tea?"),
     ("I cannot like things, but I can talk about them.",)),
]
GENERAL = ["You are a helpful assistant.", "You are a friendly assistant.", "Be polite.",
           "You chat with a user.", ""]


def chat(rng: random.Random, held: bool = False) -> list[Message]:
    """Several turns of small talk; a name told earlier is remembered."""
    turns: list[str] = []
    name, color = rng.choice(NAMES), rng.choice(COLORS)
    if rng.random() < 0.5:
        turns += [pick(rng, f"My name is {name}.", f"I am {name}.", f"Hello, I am {name}."),
                  f"Nice to meet you, {name}!"]
    if rng.random() < 0.4:
        turns += [f"My favorite color is {color}.", f"{color.capitalize()} is a nice color."]
    for _ in range(rng.randint(1, 4)):
        asked, said = rng.choice(TALK)
        turns += [rng.choice(asked), rng.choice(said)]
    if f"Nice to meet you, {name}!" in turns:
        turns += [pick(rng, "What is my name?", "Do you remember my name?", "Who am I?"),
                  f"Your name is {name}."]
    if any("favorite" in t for t in turns):
        turns += ["What is my favorite color?", f"Your favorite color is {color}."]
    return say(*turns, system=rng.choice(GENERAL))


def obey(rng: random.Random, held: bool = False) -> list[Message]:
    """The system prompt fixes the form of every answer."""
    asked, said = rng.choice(TALK)
    ask, answer = rng.choice(asked), rng.choice(said)
    kind = rng.randint(0, 5)
    if kind == 0:
        return say(ask, answer.upper(), system=pick(rng, "Answer in capital letters.",
                                                    "Write only capital letters."))
    if kind == 1:
        name = rng.choice(NAMES)
        return say(ask, f"{answer} Yours, {name}", system=f"Sign every answer with: Yours, {name}")
    if kind == 2:
        word = rng.choice(NOUNS)
        return say(ask, word, system=pick(rng, f"Always answer with the word {word}.",
                                          f"Whatever you are asked, say only: {word}"))
    if kind == 3:
        return say(ask, answer.lower(), system="Answer in lower case.")
    if kind == 4:
        city = rng.choice(CITIES)
        question = pick(rng, "Where are you from?", "Where do you live?", "Which city is yours?")
        return say(question, city, system=f"You live in {city}. Answer with one word.")
    name = rng.choice(NAMES)
    return say("What is your name?", f"My name is {name}.", system=f"Your name is {name}.")


def define(rng: random.Random, held: bool = False) -> list[Message]:
    """Remember a list of facts told in separate turns and answer about one of them."""
    nouns = rng.sample(NOUNS, rng.randint(2, 5))
    colors = [rng.choice(COLORS) for _ in nouns]
    turns: list[str] = []
    for noun, color in zip(nouns, colors, strict=True):
        turns += [f"Remember: the {noun} is {color}.", "OK."]
    at = rng.randrange(len(nouns))
    return say(*turns, pick(rng, f"What color is the {nouns[at]}?",
                            f"Which color has the {nouns[at]}?"), colors[at],
               system=pick(rng, "", "You have a good memory."))
