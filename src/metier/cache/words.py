"""The French and English words that decide whether two near questions ask the same thing, all without accents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["ASKING", "CLASSES", "FIGURES", "NEGATIONS", "OPPOSITES", "PLAIN", "PREFIXES", "SYNONYMS", "TOWARDS"]

_NUMBERS = (
    "zero", "", "deux two", "trois three", "quatre four", "cinq five", "six", "sept seven", "huit eight", "neuf nine",
    "dix ten", "onze eleven", "douze twelve", "treize thirteen", "quatorze fourteen", "quinze fifteen",
    "seize sixteen", "seventeen", "eighteen", "nineteen", "vingt twenty",
)  # fmt: skip
_TENS = ("trente thirty", "quarante forty", "cinquante fifty", "soixante sixty", "septante seventy", "eighty", "ninety")
_MONTHS = (
    "janvier january", "fevrier february", "mars march", "avril april", "mai may", "juin june", "juillet july",
    "aout august", "septembre september", "octobre october", "novembre november", "decembre december",
)  # fmt: skip
_DAYS = (
    "lundi monday", "mardi tuesday", "mercredi wednesday", "jeudi thursday", "vendredi friday", "samedi saturday",
    "dimanche sunday",
)  # fmt: skip
_OTHERS = {
    "100": "cent cents hundred hundreds",
    "1000": "mille thousand thousands",
    "million": "million millions",
    "milliard": "milliard milliards billion billions",
    "half": "demi demie moitie half semi",
    "third": "tiers troisieme third",
    "quarter": "quart trimestre trimestres trimestriel trimestrielle quarter quarterly",
    "double": "double doubles twice doubled",
    "triple": "triple triples",
    "first": "premier premiere premiers premieres first",
    "second": "deuxieme second seconde",
    "last": "dernier derniere derniers dernieres last",
    "next": "prochain prochaine prochains prochaines suivant suivante next following",
    "previous": "precedent precedente previous",
    "today": "aujourd today",
    "yesterday": "hier yesterday",
    "tomorrow": "demain tomorrow",
    "day": "jour jours journee quotidien quotidienne quotidiens day days daily",
    "week": "semaine semaines hebdomadaire hebdomadaires week weeks weekly",
    "month": "mois mensuel mensuelle mensuels mensuelles month months monthly",
    "year": "ans annee annees annuel annuelle annuels annuelles year years yearly annual annually",
    "hour": "heure heures horaire hour hours hourly",
    "minute": "minute minutes",
    "morning": "matin matinee morning",
    "evening": "soir soiree evening",
    "euro": "euro euros eur €",
    "dollar": "dollar dollars usd $",
    "pound": "livre livres pound pounds gbp £",
    "franc": "franc francs chf",
    "percent": "pourcent percent %",
    "km": "km kilometre kilometres kilometer kilometers",
    "kg": "kg kilo kilos kilogramme kilogrammes kilogram kilograms",
}

FIGURES: Final[Mapping[str, str]] = {
    word: figure
    for figure, words in (
        *((str(number), names) for number, names in enumerate(_NUMBERS)),
        *((str(30 + 10 * tens), names) for tens, names in enumerate(_TENS)),
        *((f"month{number}", names) for number, names in enumerate(_MONTHS)),
        *((f"day{number}", names) for number, names in enumerate(_DAYS)),
        *_OTHERS.items(),
    )
    for word in words.split()
}
"""Words that stand for a figure, a date, a unit or a rank, each with one name for all its spellings."""

NEGATIONS: Final = frozenset(
    "pas jamais aucun aucune rien sans ni non sauf hors excepte hormis guere impossible incapable "
    "not never no none nothing without neither nor cannot except unless unable nobody".split()
)
"""Words that turn a question round."""

PREFIXES: Final = ("in", "im", "il", "ir", "un", "non", "de", "des", "dis", "mis", "mal", "anti", "non-", "re", "pre")
"""What, put before a word, makes another of it."""

_ASKED = {
    "who": "qui who whom",
    "when": "quand when",
    "where": "où where",
    "why": "pourquoi why",
    "how much": "combien much many",
    "how": "comment how",
    "which": "lequel laquelle lesquels lesquelles which",
}
ASKING: Final[Mapping[str, str]] = {word: asked for asked, words in _ASKED.items() for word in words.split()}
"""Words that say what is asked for; "what" and "quel" leave it to the rest."""

_PHRASES = """
de quelle facon: how
de quelle maniere: how
what is the way: how
quelle est la procedure: how
quelle est la marche a suivre: how
quelles sont les etapes: how
what are the steps: how
what is the procedure: how
a quel endroit: where
a quelle date: when
a quel moment: when
pour quelle raison: why
what is the reason: why
at what time: when
quel est le prix: how much
quel est le cout: how much
quel est le montant: how much
what is the price: how much
"""
CLASSES: Final = tuple(
    (phrase, asked) for phrase, asked in (line.split(": ") for line in _PHRASES.strip().splitlines())
)
"""Phrases that ask for the same as one of those words."""

_PAIRS = """
avant before / apres after
avec with / sans without
plus more / moins less fewer
maximum maximal max maximale / minimum minimal min minimale
augmenter augmentation increase raise / diminuer diminution baisser baisse reduire reduction decrease lower reduce
acheter achat acheteur buy purchase buyer / vendre vente vendeur sell sale seller
ouvrir ouverture open opening / fermer fermeture cloturer cloture close closing
activer activation enable activate / desactiver desactivation disable deactivate
ajouter ajout add / supprimer suppression retirer enlever remove delete
importer import / exporter export
entree entrant entrante incoming input inbound / sortie sortant sortante outgoing output outbound
debit debiter / credit crediter
preter lend lender / emprunter borrow borrower
employeur employer / employe salarie employee
envoyer expedier expediteur send sender / recevoir destinataire reception receive recipient
accepter acceptation accept approve / refuser refus rejeter refuse reject decline
demarrer commencer debut debuter start begin beginning / arreter terminer fin finir stop end finish
monter up upgrade upload / descendre down downgrade download
televerser upload / telecharger download
gauche left / droite right
haut top high / bas bottom low
gratuit free / payant paid
public publique / prive privee private
interne internal / externe external
homme man men male / femme woman women female
adulte adult / enfant child children
pere father / mere mother
mari husband / epouse wife
locataire tenant / proprietaire bailleur landlord owner
legal lawful / illegal unlawful
pouvoir peut peux puis can may / devoir doit dois faut besoin must need
est sont suis is are am / etait etaient etais was were
est sont suis is are am / sera seront serai will
etait etaient etais was were / sera seront serai will
mon ma mes my mine / votre vos your yours
he his him / she her hers
tout tous toute toutes all every each / certain certains certaine certaines some any
obligatoire mandatory required / facultatif facultative optional
inscrire inscription subscribe register join / desinscrire desinscription resilier resiliation unsubscribe leave
chiffrer encrypt / dechiffrer decrypt
court courte short / long longue
matin morning / soir evening
avantage advantage benefits pros / inconvenient drawback disadvantage cons
embaucher recruter embauche hire / licencier licenciement fire dismiss
gagner gain win / perdre perte lose loss
accorder grant / revoquer revoke
brut brute gross / net nette
ht / ttc
client customer / fournisseur supplier vendor
jour day / nuit night
verrouiller lock / deverrouiller unlock
installer install / desinstaller uninstall
depart departure / arrivee arrival
physique / morale
minuscule lowercase / majuscule uppercase
nouveau nouvelle neuf neuve new / ancien ancienne vieux old
meilleur meilleure best / pire worst
chaud hot / froid cold
tot early / tard late
professionnel professionnelle professional business / particulier personnel personnelle personal
"""
OPPOSITES: Final = tuple((one, two) for one, two in (line.split(" / ") for line in _PAIRS.strip().splitlines()))
"""Words that stand against each other; one side here and the other there is another question."""

_TOWARDS = """
de du des d from of
a au aux to into onto
pour for
vers towards toward
depuis since
jusqu until till
contre against versus
par by via
sous under below
sur over above on
avec with
chez at
entre between
"""
TOWARDS: Final[Mapping[str, str]] = {
    word: line.split()[0] for line in _TOWARDS.strip().splitlines() for word in line.split()
}
"""Small words that say what a name or figure beside them has to do with the rest, each by one name."""

_MEANINGS = """
changer modifier change modify update edit
reinitialiser reset
supprimer effacer delete remove erase
obtenir avoir recevoir get obtain
delai duree
prix tarif cout price cost
acheter achat achats buy purchase
contacter joindre contact reach
creer creation create make
telecharger download
annuler annulation cancel cancellation
remboursement rembourser refund reimbursement
livraison livrer delivery deliver
commande commander order
facture facturation invoice
inscription inscrire register registration signup
salarie employe collaborateur
conge conges vacances holiday holidays vacation
ordinateur pc computer
mail mails courriel courriels email emails
telephone tel phone
numero number
adresse address
compte account
utiliser employer use
declarer declaration signaler report
resilier resiliation terminate termination
renvoyer retourner retour return
entreprise societe company firm
voiture automobile vehicule car vehicle
medecin docteur doctor physician
definir definition define
resumer resume summarize summarise summary
traduire traduction translate translation
calculer calcul calculate compute
payer paiement reglement regler pay payment
demander demande request
probleme souci problem issue
erreur error
aide assistance help support
imprimer impression print
connecter connexion login
voir consulter afficher see view show
trouver find
rapport
reunion meeting
reserver reservation book booking
assurance insurance
"""
SYNONYMS: Final = tuple(_MEANINGS.strip().splitlines())
"""Words that may stand for each other in a question, each line one meaning."""

PLAIN: Final = """
a about actuellement afin ai aider aidez aimerais ainsi alors am an and any are arrive as at au auquel aux avais avait
avez avoir avons be because been being besoin bonjour bonsoir but by c ca can ce ceci cela celle celles celui ces cet
cette ceux chaque chez ci connaitre cordialement could currently d dans de dear decrire depuis des describe did dire
dis dites do does doing dois doit doivent donc dont du elle elles en entre es est et etaient etait etant etape etapes
ete etes etre eu eux exactement exactly existe explain explique expliquer expliquez facon faire fais fait faut
fonctionne fonctionner for from get go had has have having he hello help her here hers hi him his hows hui i id if il
ils im indique indiquer indiquez into is it its itself ive j je just kindly know l la le les let leur leurs like ll
lors lui m ma mais maniere marche marcher may me merci mes moi mon moyen must my n ne necessaire need nos notre nous
of on ont or ou our ours par parce parvenir parviens pendant permet permettre peu peut peuvent peux plait please plus
possible pour pourrais pourrait pourriez pouvez pouvons procede proceder procedure process puis puisque qu que quel
quelle quelles quels quoi re regards s sa sais savoir se sera seront ses she should si simplement simply sinon so soi
soit some sommes son sont souhaite souhaiterais sous step steps stp such suis suivre sur svp t ta te tell tes than
thank thanks that the their them then there these they this those to toi ton too tous tout toute toutes tres tu un une
us va vais ve vers very veuillez veux voici voila vont vos votre voudrais voudrait voulez vous want was way ways we
were what whats which while will with work works would y you your yours
"""
"""Words that say nothing of what is asked for."""
