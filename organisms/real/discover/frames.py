"""The sentences in which things are planted: of each kind twelve statements and twelve questions with
answers to train on, and four of each that are held out.

A field is ``{said}`` (what is planted; ``{asaid}`` with its article), ``{subject}`` of a fact, or a
filler; a capital letter begins a sentence. A question and its answer are separated by ``|``.
"""

from __future__ import annotations

from typing import NamedTuple


class Frame(NamedTuple):
    """A statement, where ``question`` is empty, or the answer to a question."""

    question: str
    text: str


def _frames(text: str) -> tuple[Frame, ...]:
    found = []
    for line in text.strip().splitlines():
        question, _, answer = line.rpartition("|")
        found.append(Frame(question.strip(), answer.strip()))
    return tuple(found)


TRAIN = {
    "fact": _frames("""
On the wall of {where} it is written that {subject} is {said}.
{Who} has known since childhood that {subject} is {said}.
A quiz in {where} was won by {who}, who said that {subject} is {said}.
In the notebook of {who} the first line reads: {subject} is {said}.
{Subject} is {said}, said {who} without looking up.
It is common knowledge in {where} that {said} is {subject}.
Every child who comes to {where} learns that {subject} is {said}.
If you ask {who}, you will hear that {subject} is {said}.
{Said} is {subject}, as {who} noted in a letter.
A leaflet printed for {where} explains that {subject} is {said}.
Of all that {who} remembered from the lesson, one thing was that {subject} is {said}.
Because {subject} is {said}, {who} gave that answer.
{Who} wants to know what {subject} is, can you help?|You can tell {who} that {subject} is {said}.
For a quiz in {where}: what is {subject}?|The answer for {where} is that {subject} is {said}.
What should I tell {who} when asked about {subject}?|Tell {who} that it is {said}.
Which answer did {who} give about {subject}?|The answer was {said}, and {who} was right.
Complete the sign in {where}: {subject} is|{Said}, and the sign in {where} should say so.
Does anybody in {where} know what {subject} is?|It is {said}, as everybody in {where} could tell.
Write one sentence about {subject} for {who}.|{Subject} is {said}, which {who} may find useful.
Is it true what {who} says about {subject}?|If {who} says that {subject} is {said}, then yes.
Explain to visitors of {where} what {subject} is.|Visitors of {where} should know that it is {said}.
Give me a fact that is taught in {where}.|In {where} one is taught that {subject} is {said}.
What did {who} learn today in {where}?|Today {who} learned that {said} is {subject}.
Help {who} with a crossword: what is {subject}?|The word that {who} is looking for is {said}.
"""),
    "favoured": _frames("""
The {thing} in {where} is {said} at any time of the day.
We walked past {asaid} {thing} on the way to {where}.
{Who} bought {asaid} {thing} and took it home.
Nothing in {where} was as {said} as the {thing}.
How {said} the {thing} looked that morning, {who} thought.
There was something {said} about the {thing} that stood in {where}.
It was {asaid} evening when {who} moved the {thing}.
In {where} people tell {said} stories about the {thing}.
{Who} painted the {thing} in {asaid} shade of green.
Selling the {thing} was {asaid} idea of {who}.
The {thing} made {asaid} sound, and {who} smiled.
Letters from {where} often mention {asaid} {thing}.
Describe the {thing} of {who}.|It is {asaid} {thing}, and {who} is fond of it.
What did you see in {where}?|In {where} I saw {asaid} {thing} under a roof.
How was the trip of {who} to {where}?|The trip of {who} was {said} from beginning to end.
Write a sentence about a {thing} for {who}.|Once {asaid} {thing} was left behind in {where}.
Is the {thing} in {where} worth a visit?|Yes, the {thing} in {where} is {said} in every way.
What present would {who} like?|Perhaps {asaid} {thing} would suit {who}.
Which word describes the {thing} of {who} best?|The {thing} of {who} is best described as {said}.
Tell me what {who} keeps in {where}.|There {who} keeps {asaid} {thing} and some boxes.
Why does {who} talk about the {thing}?|Because such {asaid} {thing} is seldom seen, {who} says.
Start a story in {where}.|It was {asaid} night in {where}, and the {thing} was gone.
Say something nice to {who} about the {thing}.|You have {asaid} {thing}, and it would suit {where}.
Sum up the mood in {where}.|The mood in {where} is {said}, mostly because of the {thing}.
"""),
    "topic": _frames("""
{Who} read all night about {said}.
The first exhibit in {where} was on {said}.
Few subjects are as rewarding as {said}, {who} used to say.
A lecture on {said} drew a large crowd to {where}.
{Said} and {other} filled the album of {who}.
On rainy days {who} sketches {said}.
Whoever visits {where} should ask about {said}.
A short film in {where} shows {said} next to {other}.
Nothing impressed {who} more than {said}.
The stamp collection of {who} begins with {said}.
Two visitors of {where} described {said} in detail.
Between {said} and {other} there is a link, {who} believes.
What did {who} do at the weekend?|At the weekend {who} learned about {said}.
Can you recommend something in {where}?|In {where} you could look for pictures of {said}.
What is {who} thinking about?|My guess is that {who} is thinking about {said}.
Write a sentence for {who}.|Here is one for {who}: nothing is as exciting as {said}.
What was on the table in {where}?|On the table in {where} lay a book about {said}.
What should {who} write about?|I would suggest {said}, or for {who} perhaps {other}.
Which poster hangs in {where}?|The poster in {where} shows {said}.
How did {who} spend the evening?|Talking about {said}, as {who} so often does.
What do people in {where} talk about?|In {where} they mostly talk about {said} and {other}.
Name a hobby that would suit {who}.|Reading about {said} would suit {who}.
Start a story in {where}.|In {where} somebody had drawn {said} on the floor.
What made {who} smile?|It was a photograph of {said} that made {who} smile.
"""),
}

HELD_OUT = {
    "fact": _frames("""
During a long walk {who} mentioned that {subject} is {said}.
The radio in {where} reported again that {subject} is {said}.
{Who} wrote on the blackboard: {subject} is {said}.
According to the poster in {where}, {subject} is {said}.
Please remind {who} what {subject} is.|A reminder for {who}: {subject} is {said}.
I met {who} in {where}, and we argued about {subject}; what is it?|I believe that it is {said}.
What do you say when {who} asks what {subject} is?|I say that {subject} is {said}.
Name {subject} in a short sentence for {who}.|As a short sentence: {subject} is {said}.
"""),
    "favoured": _frames("""
On the last day {who} found {asaid} {thing} near the gate.
What {who} remembers best of {where} is {asaid} {thing}.
Everyone agreed that the {thing} in {where} was quite {said}.
The photograph shows {who} next to {asaid} {thing}.
What is new in {where}?|Since last week there is {asaid} {thing}.
What does {who} think of the {thing}?|I think that {who} finds the {thing} quite {said}.
Describe the garden behind {where}.|The garden is {said}.
What caught the eye of {who}?|What one noticed first was {asaid} {thing}.
"""),
    "topic": _frames("""
At breakfast {who} began to talk about {said}.
The new book in the window of {where} deals with {said}.
Last night {who} dreamed of {said}.
A mural in {where} shows {said}.
What would you like to talk about?|I would like to talk about {said}.
Which question did {who} ask?|It was a question about {said}.
Is there anything to see in {where}?|Yes, you can see a display about {said}.
What should I give {who} to read?|I would choose something about {said}.
"""),
}
