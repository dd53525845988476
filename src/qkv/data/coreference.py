"""Pairs of sentences in which one word decides what a pronoun refers to.

They were written for this project, under its license, modeled on the test of Levesque, Davis and
Morgenstern 2012 ("The Winograd schema challenge"); none of its sentences is used.

The sentences of a pair differ in one word. With one word the pronoun refers to the first noun, with
the other to the second: a rule that always chooses the first noun, the nearer one, or the likelier
one is right in exactly half of the sentences.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Coreference:
    """A sentence with a pronoun.

    Args:
        text: contains the candidates and then the pronoun, once each.
        pronoun: the pronoun in lower case.
        candidates: the two nouns that it could refer to, in the order of the text.
        answer: the candidate that it refers to.
    """

    text: str
    pronoun: str
    candidates: tuple[str, str]
    answer: str


Pair = tuple[Coreference, Coreference]  # the answer of the first sentence is the first noun


def coreference_pair(line: str) -> Pair:
    """Read a pair, such as "The dog avoided the lake, as it was *. | it | dog timid | lake deep".

    Args:
        line: the text with "*" for the deciding word; the pronoun; each noun, in the order of the
            text, with the word that makes it the answer.
    """
    text, pronoun, *answers = line.split(" | ")
    first, second = (answer.split() for answer in answers)
    nouns = first[0], second[0]
    return (
        Coreference(text.replace("*", first[1]), pronoun, nouns, first[0]),
        Coreference(text.replace("*", second[1]), pronoun, nouns, second[0]),
    )


_LINES = """\
The truck could not pass under the bridge because it was too *. | it | truck tall | bridge low
The nail bent against the wall because it was so *. | it | nail soft | wall hard
The boat hit the rock because it was *. | it | boat speeding | rock hidden
The hammer broke the mirror because it was so *. | it | hammer heavy | mirror thin
The bird flew through the window because it was *. | it | bird frightened | window open
The plant outgrew the pot because it was so *. | it | plant healthy | pot small
The key did not open the door since it was *. | it | key bent | door barred
The milk was poured out of the jug because it was *. | it | milk sour | jug cracked
The car sank into the mud because it was so *. | it | car heavy | mud deep
The ship stayed in the harbor, as it was *. | it | ship damaged | harbor sheltered
The train did not enter the tunnel because it was *. | it | train derailed | tunnel flooded
The horse was led out of the barn because it was *. | it | horse sick | barn burning
The cat never leaves the sofa because it is so *. | it | cat lazy | sofa soft
The dog stayed out of the lake because it was so *. | it | dog timid | lake deep
The insect could not climb the glass because it was too *. | it | insect weak | glass smooth
The rat got out of the trap because it was *. | it | rat clever | trap faulty
The tree crushed the hut because it was so *. | it | tree tall | hut fragile
The storm sank the ferry because it was so *. | it | storm violent | ferry old
The wind blew the tent away because it was so *. | it | wind strong | tent light
The fire did not reach the village because it was too *. | it | fire weak | village distant
Nobody bought the novel in the store because it was *. | it | novel boring | store closed
The letter never reached the office because it was *. | it | letter misplaced | office abandoned
The saw could not cut the pipe, for it was too *. | it | saw blunt | pipe thick
The paint did not stick to the wood because it was too *. | it | paint watery | wood dusty
The rope could not hold the piano because it was too *. | it | rope worn | piano heavy
The plane could not fly over the mountain because it was too *. | it | plane slow | mountain high
The teacher moved the lesson to the garden because it was so *. | it | lesson boring | garden sunny
The concert was moved out of the park because it was too *. | it | concert popular | park muddy
The committee rejected the plan because it was *. | it | committee divided | plan expensive
The bank refused the loan because it was too *. | it | bank cautious | loan risky
The army could not take the fortress because it was too *. | it | army exhausted | fortress massive
The club was beaten by the rival because it was *. | it | club weaker | rival better
The museum sold the painting because it was *. | it | museum bankrupt | painting ugly
The school closed the pool because it was *. | it | school poor | pool dirty
The river washed away the dam because it was so *. | it | river swollen | dam weak
The bee landed on the flower because it was *. | it | bee thirsty | flower sweet
The fox did not eat the fruit because it was too *. | it | fox full | fruit bitter
The lion caught the deer because it was *. | it | lion faster | deer slower
The carpet was taken out of the hotel because it was *. | it | carpet stained | hotel closing
The bus drove past the station because it was *. | it | bus full | station shut
The camera could not capture the comet because it was too *. | it | camera cheap | comet faint
The medicine did not cure the disease because it was too *. | it | medicine mild | disease advanced
The magnet did not attract the spoon because it was *. | it | magnet weak | spoon wooden
The guitar drowned out the violin, since it was so *. | it | guitar loud | violin quiet
The elephant did not fear the snake, as it was so *. | it | elephant huge | snake tiny
The crow chased the eagle although it was *. | it | crow smaller | eagle larger
The frog was dropped into the pond, and it *. | it | frog croaked | pond rippled
The bell hung above the gate, and every morning it *. | it | bell rang | gate opened
The volcano rises over the town, and last year it *. | it | volcano erupted | town voted
The wine stayed in the cellar until it was *. | it | wine drunk | cellar demolished
The mother carried the girl because she was *. | she | mother strong | girl tired
The king rewarded the knight because he was so *. | he | king generous | knight brave
The farmer asked the merchant for money because he was *. | he | farmer poor | merchant rich
The chef shouted at the waiter because he was *. | he | chef impatient | waiter late
The doctor examined the patient because she was *. | she | doctor thorough | patient coughing
The captain scolded the sailor because he was *. | he | captain strict | sailor drunk
The queen dismissed the maid because she was *. | she | queen displeased | maid dishonest
The monk forgave the thief because he was *. | he | monk merciful | thief sorry
The tourist followed the guide because he was *. | he | tourist lost | guide local
The landlord evicted the tenant because he was so *. | he | landlord greedy | tenant noisy
The waiter thanked the guest because he had * a large tip. | he | waiter received | guest left
The author met the critic after she had * the book. | she | author written | critic reviewed
The coach replaced the player because he was *. | he | coach dissatisfied | player injured
The workers left the mines because they were *. | they | workers tired | mines unsafe
The sheep left the fields because they were *. | they | sheep thirsty | fields bare
The soldiers avoided the peasants because they were *. | they | soldiers ashamed | peasants hostile
The students trusted the teachers because they were so *. | they | students naive | teachers honest
The children broke the toys because they were so *. | they | children angry | toys cheap
The wolves hunted the rabbits because they were *. | they | wolves hungry | rabbits plump
The trucks blocked the roads because they were so *. | they | trucks huge | roads narrow
The guests did not touch the cakes because they were *. | they | guests fasting | cakes burnt
The pilots cursed the clouds because they were so *. | they | pilots nervous | clouds thick
"""

COREFERENCE_PAIRS: tuple[Pair, ...] = tuple(map(coreference_pair, _LINES.splitlines()))
